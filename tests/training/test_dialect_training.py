"""A request of another tool makes the same steps as a plain PyTorch program written after the tool's documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.config.parse import parse_hyperparameters
from finetune.strategies.param_groups import parameter_groups
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.training.build import build_schedule
from finetune.training.optim import build_optimizer, set_learning_rates
from tests.support.tiny import SIDE, TinyBackbone, TinyNetwork

STEPS_PER_EPOCH, EPOCHS = 3, 4
TOTAL = STEPS_PER_EPOCH * EPOCHS
PlainOptimizer = Callable[[list[nn.Parameter], list[nn.Parameter]], Optimizer]
"""Optimizer for the weights of convolutions and linear layers, and for the other parameters."""


def constant(_: int) -> float:
    return 1.0


def linear(step: int) -> float:
    return 1 - step / TOTAL


def step_at_2(step: int) -> float:
    return 0.1 if step >= 2 * STEPS_PER_EPOCH else 1.0


@dataclass(frozen=True)
class Reading:
    """A request, and the plain program for it.

    Attributes:
        request: hyperparameters, separated by blanks.
        optimizer: builds the optimizer of the tool.
        schedule: factor of the learning rate by step.
    """

    request: str
    optimizer: PlainOptimizer
    schedule: Callable[[int], float] = constant


READINGS = {
    "mxnet": Reading(
        "num_layers=18 use_pretrained_model=1 learning_rate=0.01",
        lambda weights, others: torch.optim.SGD(
            [{"params": weights, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}], lr=0.01, momentum=0.9
        ),
    ),
    "mxnet, steps": Reading(
        "num_layers=18 lr_scheduler_step=2 optimizer=rmsprop gamma=0.9 learning_rate=0.01",
        lambda weights, others: torch.optim.RMSprop([*weights, *others], lr=0.01, alpha=0.9),
        step_at_2,
    ),
    "tensorflow": Reading(
        "train_only_on_top_layer=False learning_rate=0.001 momentum=0.9 rho=0.95",
        lambda weights, others: torch.optim.Adam([*weights, *others], lr=0.001, eps=1e-7),
    ),
    "tensorflow, adadelta": Reading(
        "binary_mode=True optimizer=adadelta rho=0.95 learning_rate=0.5",
        lambda weights, others: torch.optim.Adadelta([*weights, *others], lr=0.5, rho=0.95, eps=1e-7),
    ),
    "tensorflow, adagrad": Reading(
        "binary_mode=True optimizer=adagrad initial_accumulator_value=0.0001 learning_rate=0.01",
        lambda weights, others: torch.optim.Adagrad(
            [*weights, *others], lr=0.01, initial_accumulator_value=1e-4, eps=1e-7
        ),
    ),
    "jumpstart": Reading(
        "train_only_top_layer=False adam-learning-rate=0.05",
        lambda weights, others: torch.optim.Adam([*weights, *others], lr=0.05),
    ),
    "huggingface": Reading(
        "per_device_train_batch_size=8 learning_rate=2e-3 weight_decay=0.01",
        lambda weights, others: torch.optim.AdamW(
            [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=2e-3
        ),
        linear,
    ),
}


def gradients(network: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    network.zero_grad()
    network(torch.randn((6, 3, SIDE, SIDE), generator=generator)).square().mean().backward()


def plain_weights(reading: Reading) -> dict[str, Tensor]:
    network = TinyNetwork(0, 0.0)
    parameters = list(network.parameters())
    optimizer = reading.optimizer([p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, reading.schedule)
    for step in range(TOTAL):
        gradients(network, step)
        optimizer.step()
        scheduler.step()
    return network.state_dict()


@pytest.mark.parametrize("name", READINGS)
def test_the_weights_are_those_of_the_plain_program(name: str) -> None:
    raw = dict(pair.split("=", 1) for pair in READINGS[name].request.split())
    spec = parse_hyperparameters({**raw, "epochs": str(EPOCHS)})
    backbone = TinyBackbone(dropout=0.0)
    structure = ModelStructure(
        tuple(group.name for group in backbone.layer_groups()), "image-classification", new_head=True
    )
    plan = make_plan(spec.strategy, spec.optimization, structure)
    groups = parameter_groups(backbone, plan, spec.optimization.weight_decay)
    optimizer = build_optimizer(backbone.module, groups, spec.optimization, fused=False)
    schedule = build_schedule(spec.optimization, STEPS_PER_EPOCH)
    for step in range(TOTAL):
        gradients(backbone.module, step)
        set_learning_rates(optimizer, schedule(step))
        optimizer.step()
    trained = backbone.module.state_dict()
    for key, expected in plain_weights(READINGS[name]).items():
        torch.testing.assert_close(trained[key], expected, rtol=1e-5, atol=1e-7)
