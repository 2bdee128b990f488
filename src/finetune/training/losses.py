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
        focal_gamma: Exponent of the focal loss; 0 for cross-entropy.
        adjustments: Added to the logits, float32 `[classes]` on the model's device; `None` for nothing.
    """

    task: Task
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    focal_gamma: float = 0.0
    adjustments: Tensor | None = None

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the loss summed over the batch, with weighted auxiliary classifiers; float32, 0-d."""
        total = self._loss(outputs.logits, targets)
        for weight, logits in outputs.auxiliary:
            total = total + weight * self._loss(logits, targets)
        return total

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        adjusted = logits.float() if self.adjustments is None else logits.float() + self.adjustments
        return self.task.loss(adjusted, targets, self.label_smoothing, self.class_weights, self.focal_gamma)


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Class weights inversely proportional to class counts, averaging 1 over the records; float32 `[classes]`.

    Args:
        counts: float64 `[classes]`; a class without records gets weight 0.
    """
    present = counts > 0
    weights = torch.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.float()


def logit_adjustments(counts: Tensor, factor: float) -> Tensor:
    """Return the logarithms of the class frequencies times a factor; float32 `[classes]`.

    Added to the logits in training alone, they lead to a model with the best balanced accuracy (Menon et al. 2021,
    https://arxiv.org/abs/2007.07314).

    Args:
        counts: float64 `[classes]`; a class without records counts as one with a single record.
        factor: Factor, 1 for the best balanced accuracy.
    """
    return (factor * (counts.clamp_min(1) / counts.sum()).log()).float()
