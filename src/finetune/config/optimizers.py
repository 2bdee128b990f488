"""Optimizers: names, the hyperparameters that each one uses, and the family of its default learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "nag", "adagrad", "adadelta"]
LearningRateFamily = Literal["adaptive", "momentum", "adagrad", "adadelta"]


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """Properties of an optimizer.

    Attributes:
        learning_rates: family of the default learning rates. Adaptive optimizers divide by the size of the gradients.
        uses: hyperparameters that this optimizer uses, of those that only some optimizers use.
        momentum: default of `momentum`.
        rho: default of `rho`.
    """

    learning_rates: LearningRateFamily
    uses: tuple[str, ...]
    momentum: float = 0.0
    rho: float = 0.0


_ADAM = OptimizerInfo("adaptive", ("beta_1", "beta_2", "eps"))
_SGD = OptimizerInfo("momentum", ("momentum",), momentum=0.9)

OPTIMIZERS: Mapping[OptimizerName, OptimizerInfo] = {
    "adamw": _ADAM,
    "adam": _ADAM,
    "sgd": _SGD,
    "rmsprop": OptimizerInfo("adaptive", ("momentum", "rho", "eps"), rho=0.99),
    "nag": _SGD,
    "adagrad": OptimizerInfo("adagrad", ("initial_accumulator_value", "eps")),
    "adadelta": OptimizerInfo("adadelta", ("rho", "eps"), rho=0.9),
}


@dataclass(frozen=True, slots=True)
class LearningRateInUse:
    """A learning rate of a job and the usual range for its layers and optimizer.

    Attributes:
        hyperparameter: hyperparameter that sets it.
        value: the learning rate.
        layers: layers with this learning rate, such as `pretrained layers`.
        optimizer: the optimizer.
        default: default learning rate.
        lowest: lower end of the usual range.
        highest: upper end of the usual range.
        suitable_optimizer: another optimizer for which the value is usual, if there is one.
    """

    hyperparameter: str
    value: float
    layers: str
    optimizer: OptimizerName
    default: float
    lowest: float
    highest: float
    suitable_optimizer: OptimizerName | None = None


def optimizers_using(hyperparameter: str) -> list[str]:
    """Names of the optimizers that use a hyperparameter."""
    return [name for name, info in OPTIMIZERS.items() if hyperparameter in info.uses]


def join_names(names: list[str]) -> str:
    """Names as a phrase, such as `sgd, rmsprop and nag`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
