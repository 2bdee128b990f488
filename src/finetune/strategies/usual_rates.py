"""Usual ranges of learning rates by optimizer family, task and kind of layers: docs/decisions/learning-rates.md."""

from __future__ import annotations

import math
from typing import Literal

from finetune.config.hyperparameters import OptimizationSpec, StrategySpec
from finetune.config.optimizers import OPTIMIZERS, LearningRateFamily, LearningRateInUse, OptimizerName
from finetune.strategies.presets import ModelStructure, default_learning_rates, learning_rates_in_effect

Layers = Literal[
    "pretrained layers", "layers with random weights", "a head on trained layers", "a head on frozen layers"
]

_LOWEST = 0.1
_HIGHEST: dict[Layers, float] = {
    "pretrained layers": 5.0,
    "layers with random weights": 5.0,
    "a head on trained layers": 10.0,
    # A convex problem, for which large steps do no lasting harm.
    "a head on frozen layers": 30.0,
}
"""Ends of the usual range as multiples of the default."""
_USUAL_BATCH = 32
_OTHER_FAMILY: dict[LearningRateFamily, OptimizerName] = {
    "adaptive": "sgd",
    "momentum": "adamw",
    "adagrad": "adamw",
    "adadelta": "adamw",
}


def usual_learning_rates(
    strategy: StrategySpec, optimization: OptimizationSpec, model: ModelStructure
) -> tuple[LearningRateInUse, ...]:
    """Return the learning rates of a job with their usual ranges.

    Larger batches allow larger steps: proportional to the batch size, or to its square root with an adaptive optimizer.
    """
    other = optimization.model_copy(
        update={"optimizer": _OTHER_FAMILY[OPTIMIZERS[optimization.optimizer].learning_rates]}
    )
    rates = []
    for hyperparameter, value in learning_rates_in_effect(strategy, optimization, model):
        layers = _layers(strategy, hyperparameter)
        default, lowest, highest = _usual_range(layers, optimization, model)
        _, other_lowest, other_highest = _usual_range(layers, other, model)
        suitable = other.optimizer if other_lowest <= value <= other_highest else None
        rates.append(
            LearningRateInUse(hyperparameter, value, layers, optimization.optimizer, default, lowest, highest, suitable)
        )
    return tuple(rates)


def _layers(strategy: StrategySpec, hyperparameter: str) -> Layers:
    if strategy.trains_head_only:
        return "a head on frozen layers"
    if not strategy.uses_pretrained_weights:
        return "layers with random weights"
    return "a head on trained layers" if hyperparameter == "head_learning_rate" else "pretrained layers"


def _usual_range(layers: Layers, optimization: OptimizationSpec, model: ModelStructure) -> tuple[float, float, float]:
    """Return the default, and both ends of the usual range."""
    defaults = default_learning_rates(model.task, optimization)
    if layers == "layers with random weights":
        default = defaults.scratch
    else:
        default = defaults.pretrained if layers == "pretrained layers" else defaults.head
    ratio = max(1.0, optimization.batch_size * optimization.gradient_accumulation_steps / _USUAL_BATCH)
    scale = math.sqrt(ratio) if OPTIMIZERS[optimization.optimizer].learning_rates != "momentum" else ratio
    return default, _LOWEST * default, _HIGHEST[layers] * default * scale
