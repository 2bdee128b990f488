"""Activation checkpointing stores fewer activations and changes no bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from finetune.distributed.world import World
from finetune.training.kernels.cpu_attention import cpu_attention_kernels
from finetune.training.memory.activation_checkpointing import checkpoint_activations
from tests.support.sharded_training import Network, Settings, Training, bert, convolutions

BUILDERS: dict[str, Callable[[], Network]] = {
    "convolutions": convolutions,
    "channels last": partial(convolutions, channels_last=True),
    "BERT": bert,
}


def build(builder: Callable[[], Network], *, checkpointed: bool) -> Network:
    network = builder()
    if checkpointed:
        checkpoint_activations(network.roots)
    return network


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_results_keep_their_bits(name: str, bf16: bool) -> None:
    digests = set()
    for checkpointed in (False, True):
        training = Training(
            Settings(partial(build, BUILDERS[name], checkpointed=checkpointed), bf16=bf16, accumulation=2), World(), 2
        )
        for step in range(3):
            training.step(step)
        digests.add(training.digest())
    assert len(digests) == 1


def saved_bytes(network: Network) -> int:
    sizes: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    inputs, _ = network.batch(range(16))
    with saved_tensors_hooks(save, lambda tensor: tensor):
        network.forward(inputs)
    return sum(sizes.values())


def test_fewer_bytes_are_saved() -> None:
    layers = [nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 16)) for _ in range(4)]
    module = nn.Sequential(*layers)
    network = Network(
        module, layers, lambda inputs: module(inputs["x"]), lambda numbers: ({"x": torch.ones(512, 16)}, torch.ones(1))
    )
    stored = saved_bytes(network)
    checkpoint_activations(layers)
    assert saved_bytes(network) < stored / 4


def test_names_and_passes_without_gradients_are_unchanged() -> None:
    plain, checkpointed = (build(convolutions, checkpointed=flag) for flag in (False, True))
    assert list(checkpointed.module.state_dict()) == list(plain.module.state_dict())
    checkpointed.module.load_state_dict(plain.module.state_dict())
    inputs, _ = plain.batch(range(4))
    for network in (plain, checkpointed):
        network.module.eval()
    with torch.no_grad():
        assert torch.equal(checkpointed.forward(inputs), plain.forward(inputs))


def test_context_applies_to_the_second_computation() -> None:
    gradients = []
    entered = 0

    @contextmanager
    def kernels() -> Iterator[None]:
        nonlocal entered
        entered += 1
        with cpu_attention_kernels(torch.device("cpu")):
            yield

    for context in (None, kernels):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Sequential(nn.Linear(64, 512), nn.Dropout(0.5), nn.Linear(512, 4)))
        if context is not None:
            checkpoint_activations(module, context)
        torch.manual_seed(1)
        with cpu_attention_kernels(torch.device("cpu")):
            loss = module(torch.ones(64, 64)).square().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert entered == 1
    assert all(torch.equal(own, other) for own, other in zip(*gradients, strict=True))
