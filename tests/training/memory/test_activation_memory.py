"""The memory of activations is measured by forward passes of a few records."""

from __future__ import annotations

import torch
from torch import nn

from finetune.training.memory.activation_memory import ActivationBytes, measure_activations

WIDTH = 8
FLOAT = 4


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def network() -> nn.Sequential:
    return nn.Sequential(block(), block(), block())


def test_tensors_are_counted_once_and_parameters_not() -> None:
    module, records = network(), torch.randn(5, WIDTH)
    measured = measure_activations(module, list(module), lambda: module(records))
    row = 5 * WIDTH * FLOAT
    # The input, and the output of each of six tanh, which is also the input of the next layer.
    assert measured.stored == 7 * row
    # The inputs of three blocks; in the first one, its input and the outputs of two tanh.
    assert measured.checkpointed == 3 * row + 3 * row


def test_measurements_are_extrapolated_linearly() -> None:
    module = network()
    few, more, many = (
        measure_activations(module, list(module), lambda count=count: module(torch.ones(count, WIDTH)))  # type: ignore[misc]
        for count in (2, 4, 32)
    )
    assert few.at(32, 2, more, 4) == many
    assert few.at(2, 2, more, 4) == few
    assert ActivationBytes(10, 6).at(1, 2, ActivationBytes(12, 6), 4) == (9, 6)


def test_buffers_and_random_numbers_are_restored() -> None:
    module = nn.Sequential(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        measured = measure_activations(module, list(module), lambda: module(torch.randn(4, WIDTH)))
    assert measured.stored > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
