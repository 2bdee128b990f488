"""Converts a named strategy to a plan of trainable groups, phases and learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from finetune.config.hyperparameters import OptimizationSpec, StrategySpec, TaskName
from finetune.config.optimizers import OPTIMIZERS, LearningRateFamily
from finetune.errors import UserError
from finetune.models.backbone import UNDIVIDED_GROUP
from finetune.strategies.plan import Phase, Plan


@dataclass(frozen=True, slots=True)
class DefaultLearningRates:
    """Default peak learning rates.

    Attributes:
        head: learning rate of a new head.
        pretrained: learning rate of pretrained layers, 10 to 100 times lower.
        scratch: learning rate of a model without pretrained weights.
    """

    head: float
    pretrained: float
    scratch: float


_TASKS: tuple[TaskName, ...] = get_args(TaskName)
_DEFAULT_LEARNING_RATES: Mapping[LearningRateFamily, Mapping[TaskName, DefaultLearningRates]] = MappingProxyType(
    {
        "adaptive": {
            "image-classification": DefaultLearningRates(head=3e-3, pretrained=2e-4, scratch=1e-3),
            "text-classification": DefaultLearningRates(head=2e-3, pretrained=5e-5, scratch=5e-4),
        },
        "momentum": {
            "image-classification": DefaultLearningRates(head=5e-2, pretrained=5e-3, scratch=5e-2),
            "text-classification": DefaultLearningRates(head=5e-2, pretrained=2e-3, scratch=2e-2),
        },
        # PyTorch's default for new layers, and a tenth of it for pretrained ones.
        "adagrad": dict.fromkeys(_TASKS, DefaultLearningRates(head=1e-2, pretrained=1e-3, scratch=1e-2)),
        "adadelta": dict.fromkeys(_TASKS, DefaultLearningRates(head=1.0, pretrained=0.1, scratch=1.0)),
    }
)
HEAD_LEARNING_RATE_RATIO = 10.0
"""Ratio of a new head's learning rate to `learning_rate`, if `head_learning_rate` is not set."""


def default_learning_rates(task: TaskName, optimization: OptimizationSpec) -> DefaultLearningRates:
    """Return the default learning rates for a task and the family of the optimizer."""
    return _DEFAULT_LEARNING_RATES[OPTIMIZERS[optimization.optimizer].learning_rates][task]


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """Properties of a model that determine its plan.

    Attributes:
        groups: names of its layer groups from input to head; the last is the head.
        task: task, which selects the default learning rates.
        new_head: whether the head is newly initialized.
    """

    groups: tuple[str, ...]
    task: TaskName
    new_head: bool


def make_plan(strategy: StrategySpec, optimization: OptimizationSpec, model: ModelStructure) -> Plan:
    """Convert a strategy to phases and learning rates for the layer groups of a model.

    Raises:
        UserError: `unfrozen_groups` exceeds the number of groups below the head.
    """
    *body, head = model.groups
    phases = _phases(strategy, optimization.epochs, tuple(body), head)
    body_lr, head_lr = base_learning_rates(strategy, optimization, model)
    learning_rates = {}
    for distance, name in enumerate(reversed(model.groups)):
        learning_rates[name] = head_lr if name == head else body_lr * strategy.layer_decay**distance
    trainable = {name for phase in phases for name in phase.trainable}
    return Plan(model.groups, phases, {name: learning_rates[name] for name in model.groups if name in trainable})


def learning_rates_in_effect(
    strategy: StrategySpec, optimization: OptimizationSpec, model: ModelStructure
) -> tuple[tuple[str, float], ...]:
    """Return the hyperparameters that determine the learning rates, with their values, including defaults."""
    if strategy.name == "evaluate":
        return ()
    body, head = base_learning_rates(strategy, optimization, model)
    has_head_lr = optimization.head_learning_rate is not None
    if strategy.name == "feature_extraction":
        return (("head_learning_rate" if has_head_lr else "learning_rate", head),)
    return (("learning_rate", body), *((("head_learning_rate", head),) if has_head_lr else ()))


def _phases(strategy: StrategySpec, epochs: int, body: tuple[str, ...], head: str) -> tuple[Phase, ...]:
    match strategy.name:
        case "evaluate":
            return (Phase(0, ()),)
        case "feature_extraction":
            return (Phase(0, (head,)),)
        case "full" | "from_scratch":
            return (Phase(0, (*body, head)),)
        case "partial":
            if body == (UNDIVIDED_GROUP,):
                raise UserError(
                    "strategy=partial trains the last layer groups, but the encoder of this architecture cannot be"
                    " split between its blocks, and is a single group. Choose strategy=feature_extraction or full."
                )
            if strategy.unfrozen_groups > len(body):
                raise UserError(
                    f"unfrozen_groups is {strategy.unfrozen_groups}, but the model has {len(body)} layer groups below"
                    f" its head: {', '.join(body)}. Choose at most {len(body)}, or strategy=full."
                )
            return (Phase(0, (*body[len(body) - strategy.unfrozen_groups :], head)),)
        case "gradual":
            return _gradual_phases(epochs, body, head)
        case "auto":
            raise ValueError("the plan of strategy=auto is made by strategies.auto")


def _gradual_phases(epochs: int, body: tuple[str, ...], head: str) -> tuple[Phase, ...]:
    """Train the head for one epoch, then unfreeze top-down, all groups by half of the epochs (ULMFiT, section 3.3)."""
    span = max(1, epochs // 2)
    unfrozen_at = [1 + index * span // max(1, len(body)) for index in range(len(body))]
    phases = [Phase(0, (head,))]
    for epoch in sorted(set(unfrozen_at)):
        count = sum(start <= epoch for start in unfrozen_at)
        phases.append(Phase(epoch, (*body[len(body) - count :], head)))
    return tuple(phases)


def base_learning_rates(
    strategy: StrategySpec, optimization: OptimizationSpec, model: ModelStructure
) -> tuple[float, float]:
    """Return the learning rate of the layers below the head, before layer decay, and that of the head."""
    defaults = default_learning_rates(model.task, optimization)
    learning_rate = optimization.learning_rate
    if strategy.name == "from_scratch":
        body = defaults.scratch if learning_rate is None else learning_rate
        head = body
    elif strategy.name == "feature_extraction":
        body = defaults.pretrained
        head = defaults.head if learning_rate is None else learning_rate
    else:
        body = defaults.pretrained if learning_rate is None else learning_rate
        head = body
        if model.new_head and strategy.name != "auto":  # A solved head is no new one.
            head = defaults.head if learning_rate is None else HEAD_LEARNING_RATE_RATIO * learning_rate
    if optimization.head_learning_rate is not None:
        head = optimization.head_learning_rate
    return body, head
