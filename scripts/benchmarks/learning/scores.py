"""Scores of predictions, and the comparison of methods over all tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def score(truth: Sequence[str], predictions: Sequence[str], *, macro_f1: bool) -> float:
    """Accuracy, or the mean F1 of the classes.

    Raises:
        ValueError: There is not one prediction for each record.
    """
    if len(truth) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(truth)} records")
    if not macro_f1:
        return sum(one == other for one, other in zip(truth, predictions, strict=True)) / len(truth)
    return statistics.mean(_f1(truth, predictions, label) for label in sorted(set(truth)))


def _f1(truth: Sequence[str], predictions: Sequence[str], label: str) -> float:
    right = sum(one == other == label for one, other in zip(truth, predictions, strict=True))
    wrong = sum((one == label) != (other == label) for one, other in zip(truth, predictions, strict=True))
    return 2 * right / (2 * right + wrong) if right else 0.0


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Rank of each method, 1 for the best; methods with the same score share the mean of their ranks."""
    return {
        name: 1 + sum(other > value for other in scores.values()) + (list(scores.values()).count(value) - 1) / 2
        for name, value in scores.items()
    }
