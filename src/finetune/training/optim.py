"""Optimizers over named parameter groups, and the learning rate schedule, which is a pure function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from finetune.config.hyperparameters import OptimizationSpec, ScheduleName
from finetune.config.optimizers import OPTIMIZERS
from finetune.strategies.param_groups import ParameterGroup


def build_optimizer(
    module: nn.Module, groups: Sequence[ParameterGroup], spec: OptimizationSpec, *, fused: bool = True
) -> Optimizer:
    """Build an optimizer whose groups carry their name and, as `peak_lr`, the learning rate to be scheduled.

    Adam uses the fused kernel, which takes a third of the time of separate operations on a CPU too. The fused SGD
    kernel (PyTorch 2.11) is not used: it assumes that the momentum of all parameters of a group starts in the same
    step, and starts from uninitialized memory if float16 gradients overflow in the first step.

    Args:
        module: The model.
        groups: Its trainable parameters.
        spec: Optimizer and its hyperparameters.
        fused: Whether Adam may use the fused kernel.
    """
    parameters = dict(module.named_parameters())
    param_groups = [
        {
            "params": [parameters[name] for name in group.parameters],
            "name": group.name,
            "lr": group.learning_rate,
            "peak_lr": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    betas = (spec.beta_1, spec.beta_2)
    momentum = OPTIMIZERS[spec.optimizer].momentum if spec.momentum is None else spec.momentum
    rho = OPTIMIZERS[spec.optimizer].rho if spec.rho is None else spec.rho
    build: Callable[..., Optimizer] = torch.optim.SGD
    options: dict[str, object]
    match spec.optimizer:
        case "adamw":
            build, options = torch.optim.AdamW, {"betas": betas, "eps": spec.eps, "fused": fused}
        case "adam":
            build, options = torch.optim.Adam, {"betas": betas, "eps": spec.eps, "fused": fused}
        case "sgd" | "nag":
            options = {"momentum": momentum, "nesterov": spec.optimizer == "nag"}
        case "rmsprop":
            build, options = torch.optim.RMSprop, {"momentum": momentum, "alpha": rho, "eps": spec.eps}
        case "adagrad":
            initial = spec.initial_accumulator_value
            build, options = torch.optim.Adagrad, {"initial_accumulator_value": initial, "eps": spec.eps}
        case "adadelta":
            build, options = torch.optim.Adadelta, {"rho": rho, "eps": spec.eps}
    return build(param_groups, **options)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Factor by which peak learning rates are multiplied.

    Attributes:
        name: Shape of the decay after warm-up.
        total_steps: Optimizer steps of the whole job.
        steps_per_epoch: Optimizer steps per epoch, for `step`, whose milestones are epochs.
        warmup_steps: Steps over which the factor rises linearly to 1.
        milestones: Epochs after which `step` multiplies by `factor`.
        factor: Factor per milestone for `step`; final factor of the job for `exponential`.
        first_step: Number of steps before the first one that the schedule counts: 1 if a head was solved before.
    """

    name: ScheduleName
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    first_step: int = 0

    def begin_of(self, epoch: int) -> int:
        """Return the first optimizer step of an epoch; both are counted from 0, with those before the schedule."""
        if self.first_step and epoch:  # The first epoch consists of these steps.
            return self.first_step + (epoch - 1) * self.steps_per_epoch
        return epoch * self.steps_per_epoch

    def __call__(self, step: int) -> float:
        """Return the factor in [0, 1] for optimizer step `step`, counted from 0."""
        step = max(0, step - self.first_step)
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        match self.name:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - progress
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * progress))
            case "exponential":
                return float(self.factor**progress)
            case "step":
                return float(self.factor ** bisect_right(self.milestones, step // max(1, self.steps_per_epoch)))


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to its peak times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def set_peak_learning_rates(optimizer: Optimizer, learning_rates: Mapping[str, float]) -> None:
    """Set the peak learning rates of the layer groups that are given by name; the others keep theirs."""
    for group in optimizer.param_groups:
        name = group["name"].rpartition("/")[0]
        group["peak_lr"] = learning_rates.get(name, group["peak_lr"])
