"""Losses and counts: cross-entropy over classes, or binary cross-entropy per label for multi-label tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finetune.models.backbone import Outputs


@dataclass(frozen=True, slots=True)
class Loss:
    """Sum of the losses of a batch; the caller divides it by the number of records in the whole step.

    Attributes:
        multi_label: Whether targets are float `[batch, classes]` of 0 and 1, instead of int64 `[batch]`.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: float `[classes]` on the model's device, or `None`.
    """

    multi_label: bool = False
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the loss summed over the batch, with weighted auxiliary classifiers; float32, 0-d."""
        total = self._loss(outputs.logits, targets)
        for weight, logits in outputs.auxiliary:
            total = total + weight * self._loss(logits, targets)
        return total

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if not self.multi_label:
            return functional.cross_entropy(
                logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
        smooth = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = functional.binary_cross_entropy_with_logits(
            logits, smooth, weight=self.class_weights, reduction="none"
        )
        return losses.mean(dim=1).sum()


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Count records predicted correctly (all labels, if several); int64, 0-d, on the device of the logits."""
    if targets.dim() == 1:
        return (logits.argmax(dim=1) == targets).sum()
    return ((logits > 0) == (targets > 0.5)).all(dim=1).sum()


def count_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Count true positive, predicted and true labels; int64 `[3]`, on the device of the logits.

    Args:
        logits: `[records, classes]` of a multi-label task.
        targets: `[records, classes]` of 0 and 1.
    """
    predicted, truth = logits > 0, targets > 0.5
    return torch.stack([(predicted & truth).sum(), predicted.sum(), truth.sum()])


def balanced_class_weights(targets: Tensor, classes: int) -> Tensor:
    """Class weights inversely proportional to class counts, averaging 1 over the records; float32 `[classes]`.

    Args:
        targets: int64 `[records]`, or float `[records, classes]` for multi-label tasks.
        classes: Number of classes; a class without records gets weight 0.
    """
    counts = torch.bincount(targets, minlength=classes).double() if targets.dim() == 1 else targets.double().sum(0)
    present = counts > 0
    weights = torch.zeros(classes, dtype=torch.float64)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.float()
