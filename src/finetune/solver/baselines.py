"""Simple measures of how well features separate classes, to compare a solved head with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finetune.solver.head import Estimate

_MAX_ELEMENTS = 1 << 24
"""Distances computed at once."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """Measures of the separation of classes by features.

    Attributes:
        nearest_mean_accuracy: share of records whose class has the nearest mean, each record left out of its mean;
            `None` if records have several classes.
        majority_accuracy: share of the most frequent class; `None` as above.
        separation: 0 if the solved head is no better than a constant prediction, 1 if it makes no error: the share of
            the errors of the most frequent class that its cross-validated accuracy saves. If records have several
            classes, the share of the entropy of the labels that its cross-validated loss saves. `None` without
            cross-validation, or if all records are alike.
    """

    nearest_mean_accuracy: float | None
    majority_accuracy: float | None
    separation: float | None


def measure_baselines(features: Tensor, targets: Tensor, estimate: Estimate | None, *, exclusive: bool) -> Baselines:
    """Measure how well features separate classes.

    Args:
        features: `[records, width]`.
        targets: `[records, classes]` of 0 and 1, on any device.
        estimate: cross-validated quality of the solved head, without class weights; `None` if unknown.
        exclusive: whether each record has exactly one class.
    """
    truth = targets.double().cpu()
    shares = truth.mean(dim=0)
    if not exclusive:
        # Like the loss of the solved head, averaged over the labels that some records have and others do not.
        varying = shares[(shares > 0) & (shares < 1)]
        entropy = float(-(torch.xlogy(varying, varying) + torch.xlogy(1 - varying, 1 - varying)).sum())
        saved = None if estimate is None or entropy == 0 else 1 - estimate.loss * len(varying) / entropy
        return Baselines(None, None, saved)
    majority = float(shares.max())
    saved = None if estimate is None or majority >= 1 else (estimate.accuracy - majority) / (1 - majority)
    return Baselines(nearest_mean_accuracy(features, truth.argmax(dim=1)), majority, saved)


def nearest_mean_accuracy(features: Tensor, classes: Tensor) -> float:
    """Return the leave-one-out accuracy of the nearest class mean, with features of unit variance.

    Args:
        features: `[records, width]`.
        classes: class of each record, int64 `[records]`.
    """
    values = features.double()
    deviation = values.std(dim=0, correction=0)
    values = (values - values.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
    classes = classes.to(values.device)
    one_hot = functional.one_hot(classes).double()
    counts = one_hot.sum(dim=0)
    means = (one_hot.T @ values) / counts.clamp(min=1).unsqueeze(1)
    correct = 0
    step = max(1, _MAX_ELEMENTS // len(counts))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        distances = torch.cdist(values[rows], means).square()
        distances[:, counts == 0] = math.inf
        own = counts[classes[rows]].unsqueeze(1)
        index = classes[rows].unsqueeze(1)
        # Without the record itself, its distance from the mean of its class grows by n / (n - 1).
        left_out = distances.gather(1, index) * (own / (own - 1).clamp(min=1)).square()
        distances.scatter_(1, index, torch.where(own > 1, left_out, math.inf))
        correct += int((distances.argmin(dim=1) == classes[rows]).sum())
    return correct / len(values)
