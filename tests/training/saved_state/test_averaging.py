"""Averages of weights: what is kept, what is averaged, and that it survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from finetune.strategies.plan import Phase, Plan
from finetune.training.fit_auto import start_averaging
from finetune.training.saved_state.averaging import ALPHAS, Averaging
from finetune.training.saved_state.trainable_state import TrainableWeights
from tests.support.tiny import TinyBackbone


@pytest.fixture
def weights() -> TrainableWeights:
    backbone = TinyBackbone()
    groups = tuple(group.name for group in backbone.layer_groups())
    plan = Plan(groups, (Phase(0, groups[-1:]), Phase(1, groups)), dict.fromkeys(groups, 0.1))
    return TrainableWeights(backbone, plan)


def averaging_of(weights: TrainableWeights) -> Averaging:
    return Averaging(
        {name: value.clone() for name, value in weights.state_dict().items()}, frozenset(list(weights.names)[-2:])
    )


def set_to(weights: TrainableWeights, value: float, names: frozenset[str] | None = None) -> None:
    for name, tensor in weights.state_dict().items():
        if names is None or name in names:
            tensor.fill_(value)


def trained(weights: TrainableWeights, epochs: int) -> Averaging:
    """The solved head is 1; the weights after fine-tuned epoch n are n + 1."""
    averaging = averaging_of(weights)
    set_to(weights, 1.0, averaging.head)
    averaging.epoch_done(1, epochs, weights)
    for done in range(2, epochs + 1):
        set_to(weights, float(done))
        averaging.epoch_done(done, epochs, weights)
    return averaging


def test_averages(weights: TrainableWeights) -> None:
    pretrained = {name: value.clone() for name, value in weights.state_dict().items()}
    averaging = trained(weights, 7)
    averages = dict(averaging.averages(weights.state_dict()))
    assert list(averages) == [
        "0.5 x solved head + 0.5 x last epoch",
        "0.25 x solved head + 0.75 x last epoch",
        "mean of the last 2 epochs",
    ]
    for average, alpha in zip(averages.values(), ALPHAS, strict=False):
        for name, value in average.items():
            start = torch.ones_like(value) if name in averaging.head else pretrained[name]
            if value.is_floating_point():
                torch.testing.assert_close(value, (1 - alpha) * start + alpha * 7)
            else:  # the number of batches of batch normalization
                assert (value == 7).all()
    for value in averages["mean of the last 2 epochs"].values():
        assert (value == (6.5 if value.is_floating_point() else 7)).all()


def test_a_single_last_epoch_is_not_averaged(weights: TrainableWeights) -> None:
    assert len(list(trained(weights, 3).averages(weights.state_dict()))) == len(ALPHAS)


def test_the_state_is_restored(weights: TrainableWeights) -> None:
    fresh = averaging_of(weights)
    averaging = trained(weights, 7)
    fresh.load_state_dict(copy.deepcopy(averaging.state_dict()))
    for (name, average), (again, restored) in zip(
        averaging.averages(weights.state_dict()), fresh.averages(weights.state_dict()), strict=True
    ):
        assert name == again
        assert all(torch.equal(average[key], restored[key]) for key in average)


def test_tensors_of_another_model_are_refused(weights: TrainableWeights) -> None:
    state = trained(weights, 7).state_dict()
    name = next(iter(state["solved"]))
    wrong: dict[str, Tensor] = {**state["solved"], name: torch.zeros(1)}
    with pytest.raises(ValueError, match=name):
        averaging_of(weights).load_state_dict({**state, "solved": wrong})


def test_the_solved_head_is_that_of_the_last_group() -> None:
    backbone = TinyBackbone()
    head = backbone.layer_groups()[-1]

    groups = tuple(group.name for group in backbone.layer_groups())
    weights = TrainableWeights(backbone, Plan(groups, (Phase(0, groups),), dict.fromkeys(groups, 0.1)))
    assert start_averaging(backbone, weights).head == set(head.parameters)
