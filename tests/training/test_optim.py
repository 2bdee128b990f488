"""Fused optimizer updates match the plain formula and resume bit by bit; schedules match their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from finetune.config.parse import parse_hyperparameters
from finetune.strategies.param_groups import ParameterGroup
from finetune.training.build import build_schedule
from finetune.training.optim import Schedule, build_optimizer
from finetune.training.saved_state.trainable_state import OptimizerState, State


def build_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(20, 2))
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # not in torch's stub


def build(module: nn.Module, name: str) -> Optimizer:
    names = tuple(name for name, _ in module.named_parameters())
    spec = parse_hyperparameters({"optimizer": name}).optimization
    return build_optimizer(module, [ParameterGroup("all", names, 0.01, 0.1)], spec)


def train(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        module(torch.randn((6, 3, 4, 4), generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def as_stored(state: State) -> State:
    """As stored in a file: every tensor in contiguous order."""
    return {
        name: {key: copy.deepcopy(value).contiguous() for key, value in moments.items()}
        for name, moments in state.items()
    }


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nag", "rmsprop", "adagrad", "adadelta"])
def test_restored_optimizer_state_gives_the_same_bits(name: str) -> None:
    whole, first, second = build_model(), build_model(), build_model()
    train(whole, build(whole, name), range(6))
    optimizer = build(first, name)
    train(first, optimizer, range(3))
    second.load_state_dict(first.state_dict())
    restored = build(second, name)
    OptimizerState(restored, second).load_state_dict(as_stored(OptimizerState(optimizer, first).state_dict()))
    for parameter, moments in restored.state.items():
        assert all(value.stride() == parameter.stride() for value in moments.values() if value.dim() == 4)
    train(second, restored, range(3, 6))
    for key, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor)


@pytest.mark.parametrize(("name", "plain"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_fused_optimizer_matches_the_plain_one(name: str, plain: type[Optimizer]) -> None:
    ours, theirs = build_model(), build_model()
    optimizer = build(ours, name)
    assert all(group["fused"] for group in optimizer.param_groups)
    train(ours, optimizer, range(5))
    train(theirs, plain(theirs.parameters(), lr=0.01, weight_decay=0.1, foreach=False), range(5))  # type: ignore[call-arg]  # of every optimizer
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_warmup_rises_linearly_to_the_peak() -> None:
    schedule = Schedule("constant", total_steps=100, steps_per_epoch=10, warmup_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "quarter", "half", "end"),
    [
        ("linear", 0.75, 0.5, 0.0),
        ("cosine", 0.5 * (1 + 2**-0.5), 0.5, 0.0),
        ("exponential", 0.1**0.25, 0.1**0.5, 0.1),
        ("constant", 1.0, 1.0, 1.0),
    ],
)
def test_decay_follows_its_formula(name: str, quarter: float, half: float, end: float) -> None:
    schedule = Schedule(name, total_steps=100, steps_per_epoch=10, factor=0.1)  # type: ignore[arg-type]
    assert [schedule(0), schedule(25), schedule(50), schedule(100)] == pytest.approx([1.0, quarter, half, end])


def test_step_schedule_decays_at_epoch_boundaries() -> None:
    schedule = Schedule("step", total_steps=60, steps_per_epoch=10, milestones=(2, 4), factor=0.5)
    assert [schedule(step) for step in (0, 19, 20, 39, 40, 59)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("raw", "warmup_steps", "total"),
    [
        ({"epochs": "4", "warmup_fraction": "0.25"}, 10, 40),
        ({"epochs": "4", "warmup_steps": "6"}, 6, 40),
        ({"epochs": "4", "warmup_steps": "0.1"}, 4, 40),
        ({"epochs": "4", "warmup_steps": "0", "warmup_fraction": "0.5"}, 0, 40),
        ({"max_steps": "25", "warmup_fraction": "0.2"}, 5, 25),
    ],
)
def test_warm_up_is_a_fraction_or_a_number_of_steps(raw: dict[str, str], warmup_steps: int, total: int) -> None:
    schedule = build_schedule(parse_hyperparameters(raw).optimization, batches=10)
    assert (schedule.warmup_steps, schedule.total_steps) == (warmup_steps, total)
