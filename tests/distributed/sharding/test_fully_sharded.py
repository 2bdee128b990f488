"""Sharded training has the bits of `DataParallel` for any number of processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from finetune.distributed.sharding.fully_sharded import FullySharded
from finetune.distributed.sharding.sharded_model import ShardedModel
from finetune.distributed.world import World
from tests.support.processes import run_worlds
from tests.support.sharded_training import Settings, Training, bert, convolutions, tied_gpt2

CONVOLUTIONS = {
    "convolutions": Settings(partial(convolutions, channels_last=True), accumulation=2),
    "shards without records": Settings(convolutions, optimizer="sgd", records=(16, 5, 16, 3)),
    "convolutions in bf16": Settings(convolutions, bf16=True),
}
TRANSFORMERS = {
    "BERT with frozen embeddings": Settings(bert),
    "GPT-2 with tied weights in bf16": Settings(tied_gpt2, bf16=True),
}
CASES = CONVOLUTIONS | TRANSFORMERS
RUNS = {
    1: [(name, count) for name in CASES for count in (4, 6)],
    # Only here with transformers, whose import takes as much CPU time as all steps.
    2: [*((name, 4) for name in CASES), *((name, 6) for name in TRANSFORMERS)],
    3: [(name, 4) for name in CONVOLUTIONS],
    4: [(name, 6) for name in CONVOLUTIONS],
}
"""Cases and numbers of virtual devices by number of processes."""


def train(world: World, folder: Path) -> None:
    for name, virtual_devices in RUNS[world.size]:
        training = Training(CASES[name], world, virtual_devices)
        for step in range(4):
            training.step(step)
        digest = training.digest()
        if world.is_main:
            (folder / f"{name}, {virtual_devices} virtual devices, {world.size}").write_text(digest, "utf-8")
    if world.size == 2:
        check_units(world)
        check_replicated_parameters(world)


def check_units(world: World) -> None:
    """Memory is saved, weights can be exported, and wrong numbers of passes fail."""
    sharded = Training(CASES["GPT-2 with tied weights in bf16"], world, 4)
    plain = Training(CASES["GPT-2 with tied weights in bf16"], World(), 4)
    model = sharded.network.module
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in plain.network.module.named_parameters()]
    assert sharded.sharded is not None
    # The position embeddings, two layers and the last normalization; not the tied embeddings and the dropout.
    assert len(sharded.sharded.units) == 4 + 1
    sharded.step(0)
    plain.step(0)
    state = sharded.sharded.full_state()
    for name, tensor in plain.network.module.state_dict().items():
        if world.is_main:
            assert torch.equal(state[name], tensor), name
        else:
            assert state[name].is_meta
            assert state[name].shape == tensor.shape
    sharded.step(1)
    with pytest.raises(RuntimeError, match="fewer than the 2 passes announced"):
        sharded.parallel.step([2] * 4, lambda shard, context: torch.zeros(1, dtype=torch.float64), 1)


def check_replicated_parameters(world: World) -> None:
    """Frozen parameters can remain whole."""
    torch.manual_seed(0)
    network = convolutions()
    frozen = list(network.module.get_submodule("0").parameters())
    run_example = partial(network.forward, network.batch([0, 1])[0])
    with pytest.raises(ValueError, match="must be frozen"):
        ShardedModel(network.module, network.roots, [run_example], world, replicated=frozen)
    network.module.get_submodule("0").requires_grad_(False)
    network.module.eval()
    expected = run_example()
    model = ShardedModel(network.module, network.roots, [run_example], world, replicated=frozen)
    whole = [name for name, parameter in network.module.named_parameters() if not isinstance(parameter, DTensor)]
    assert whole == ["0.weight", "0.bias"]
    with torch.no_grad():
        assert torch.equal(model.run(lambda _: run_example(), None), expected)
    with pytest.raises(ValueError, match="2 processes share 1 virtual devices"):
        FullySharded(model, network.forward, 1, world, lambda forward: torch.zeros(()))


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("digests")
    train(World(), folder)
    run_worlds([size for size in RUNS if size > 1], train, folder)
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_processes_gives_the_bits_of_one(digests: dict[str, str], size: int) -> None:
    for name, virtual_devices in RUNS[size]:
        case = f"{name}, {virtual_devices} virtual devices"
        assert digests[f"{case}, {size}"] == digests[f"{case}, 1"], case


def test_cases_and_virtual_devices_have_different_bits(digests: dict[str, str]) -> None:
    assert len({digest for case, digest in digests.items() if case.endswith(", 1")}) == 2 * len(CASES)


def test_single_process_is_refused() -> None:
    network = convolutions()
    with pytest.raises(ValueError, match="single process"):
        ShardedModel(network.module, network.roots, [], World())
