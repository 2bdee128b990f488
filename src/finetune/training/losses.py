"""Loss of a batch with auxiliary classifiers, and class weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.models.backbone import Outputs
from finetune.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Loss:
    """Sum of the losses of a batch; the caller divides it by the number of records in the whole step.

    Attributes:
        task: Defines the loss of the logits.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: float `[classes]` on the model's device, or `None`.
    """

    task: Task
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the loss summed over the batch, with weighted auxiliary classifiers; float32, 0-d."""
        total = self._loss(outputs.logits, targets)
        for weight, logits in outputs.auxiliary:
            total = total + weight * self._loss(logits, targets)
        return total

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.task.loss(logits.float(), targets, self.label_smoothing, self.class_weights)


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Class weights inversely proportional to class counts, averaging 1 over the records; float32 `[classes]`.

    Args:
        counts: float64 `[classes]`; a class without records gets weight 0.
    """
    present = counts > 0
    weights = torch.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.float()
