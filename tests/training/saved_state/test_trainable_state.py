"""The state of a sharded model is that of the same model without sharding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from finetune.distributed.world import World
from finetune.strategies.plan import Phase, Plan
from finetune.training.saved_state.trainable_state import OptimizerState, State, TrainableWeights
from tests.support.processes import run_worlds
from tests.support.sharded_training import Network, Settings, Training
from tests.support.tiny import TinyBackbone

VIRTUAL_DEVICES = 4
PLAN = Plan(("stem", "middle", "head"), (Phase(0, ("middle", "head")),), {"middle": 1.0, "head": 1.0})
STEPS = {2: (0, 1), 3: (2, 3), 1: (4, 5)}
"""Steps by number of processes, in order."""


@dataclass
class Job:
    """A training with the states of its weights and optimizer."""

    training: Training
    weights: TrainableWeights
    optimizer: OptimizerState

    def save(self, file: Path) -> None:
        state = {"weights": self.weights.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.training.world.is_main:
            torch.save(state, file)

    def load(self, file: Path) -> None:
        state: State = {"weights": {}, "optimizer": {}}
        if self.training.world.is_main:
            state = torch.load(file)
        self.weights.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


def build(world: World) -> Job:
    backbone = TinyBackbone()
    module = backbone.module
    module.stem.requires_grad_(False)

    def batch(numbers: object) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values = torch.tensor(list(numbers))  # type: ignore[call-overload]  # any sequence of integers
        pixels = torch.sin(values.view(-1, 1, 1, 1) * torch.arange(1, 193).view(1, 3, 8, 8))
        return {"pixels": 127 * pixels + 128}, values % 3

    roots = [root for group in backbone.layer_groups() for root in group.modules]
    network = Network(module, roots, lambda inputs: backbone.forward(inputs).logits, batch)
    training = Training(Settings(lambda: network, records=(16,) * 6), world, VIRTUAL_DEVICES)
    return Job(training, TrainableWeights(backbone, PLAN), OptimizerState(training.optimizer, module))


def train(world: World, folder: Path) -> None:
    job = build(world)
    names = job.weights.names
    steps = STEPS[world.size]
    if steps[0]:
        job.load(folder / str(steps[0]))
    else:
        assert job.optimizer.state_dict() == {}
    for step in steps:
        job.training.step(step)
    job.save(folder / str(steps[-1] + 1))
    # Loading again changes nothing, also after a pass without gradients.
    job.training.logits()
    job.load(folder / str(steps[-1] + 1))
    assert job.weights.names == names
    check_refusals(job, folder / str(steps[-1] + 1))


def check_refusals(job: Job, file: Path) -> None:
    """Invalid states of the main process fail in all processes, and change nothing."""
    state = torch.load(file) if job.training.world.is_main else {"weights": {}, "optimizer": {}}
    wrong = {name: tensor.half() for name, tensor in state["weights"].items()}
    with pytest.raises(ValueError, match="weights" if job.training.world.is_main else "invalid"):
        job.weights.load_state_dict(wrong)
    with pytest.raises(ValueError, match="moments" if job.training.world.is_main else "invalid"):
        job.optimizer.load_state_dict({"unknown": {}} if job.training.world.is_main else {})


def test_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    run_worlds([2, 3], train, tmp_path)
    train(World(), tmp_path)
    uninterrupted = build(World())
    for step in range(6):
        uninterrupted.training.step(step)
    uninterrupted.save(tmp_path / "expected")
    expected, saved = torch.load(tmp_path / "expected"), torch.load(tmp_path / "6")
    assert list(saved["weights"]) == list(expected["weights"])
    assert not any(name.startswith("stem") for name in saved["weights"])
    for name, tensor in expected["weights"].items():
        assert torch.equal(saved["weights"][name], tensor), name
    assert list(saved["optimizer"]) == list(expected["optimizer"])
    for name, moments in expected["optimizer"].items():
        assert saved["optimizer"][name].keys() == moments.keys()
        for key, moment in moments.items():
            assert torch.equal(saved["optimizer"][name][key], moment), (name, key)
            assert saved["optimizer"][name][key].dtype == moment.dtype
