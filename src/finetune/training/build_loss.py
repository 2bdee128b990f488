"""Builds the loss from the hyperparameters and the frequencies of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.config.hyperparameters import JobSpec
from finetune.data.loading.batches import BatchSource
from finetune.data.readers.channel_files import some_of
from finetune.errors import UserError
from finetune.tasks.task import Task
from finetune.training.losses import Loss, balanced_class_weights, logit_adjustments


def build_loss(spec: JobSpec, records: BatchSource, task: Task, device: torch.device) -> Loss:
    """Build the loss.

    Args:
        spec: Hyperparameters.
        records: The training records.
        task: Loss of the outputs.
        device: Device of the model.

    Raises:
        UserError: The loss needs class frequencies, which are unknown, or the user gave weights of unknown classes.
    """
    recipes, gradient_steps = spec.recipes, not spec.strategy.never_takes_steps
    adjustments: Tensor | None = None
    if recipes.loss == "logit_adjusted" and gradient_steps:
        targets = records.targets()
        if targets is None:
            raise UserError(
                "loss='logit_adjusted' needs the number of records of each class, which is unknown for this stream:"
                " use File mode, or loss='focal'."
            )
        adjustments = logit_adjustments(task.class_counts(targets), recipes.logit_adjustment).to(device)
    return Loss(
        task,
        spec.optimization.label_smoothing,
        _class_weights(spec, records, task, device),
        recipes.focal_gamma if recipes.loss == "focal" and gradient_steps else 0.0,
        adjustments,
    )


def _class_weights(spec: JobSpec, records: BatchSource, task: Task, device: torch.device) -> Tensor | None:
    weights = spec.optimization.class_weights
    if isinstance(weights, dict):
        names = records.label_map.names
        unknown = tuple(name for name in weights if name not in names)
        if unknown:
            raise UserError(f"class_weights has weights of {some_of(unknown)}, but the classes are {some_of(names)}.")
        return torch.tensor([weights.get(name, 1.0) for name in names], device=device)
    targets = records.targets() if weights == "balanced" else None
    return None if targets is None else balanced_class_weights(task.class_counts(targets)).to(device)
