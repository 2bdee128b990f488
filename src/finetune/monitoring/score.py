"""Scores used to compare epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

METRIC_LABELS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "loss": "loss",
    "auc": "AUC",
    "recall_at_target": "recall at target_precision",
    "precision_at_target": "precision at target_recall",
}
"""Validation metrics that may determine the best epoch, with their names in texts."""


@dataclass(frozen=True, slots=True)
class BestMetric:
    """Validation metric that determines the best epoch.

    Attributes:
        name: Key in the metrics of an epoch, without `validation:`; one of `METRIC_LABELS`.
        exports: Whether the weights of the best epoch are kept and exported.
        reason: Reason for the choice, for the plan; empty if the user made it.
    """

    name: str = "accuracy"
    exports: bool = True
    reason: str = ""

    @property
    def label(self) -> str:
        """Name in texts, such as `macro F1`."""
        return METRIC_LABELS[self.name]


def rank_of(row: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return the validation score of an epoch and its negated loss: the better of two epochs has the higher pair.

    Args:
        row: Metrics of an epoch with validation.
        metric: One of `METRIC_LABELS`; a loss is negated. Undefined and not a number are the worst values.
    """
    loss = _comparable(-row["validation:loss"])
    return (loss if metric == "loss" else _comparable(row.get(f"validation:{metric}", -math.inf))), loss


def best_epoch(rows: Sequence[Mapping[str, float]], metric: str) -> int:
    """Return the best epoch, from 0; the first one of equal epochs."""
    return max(range(len(rows)), key=lambda epoch: rank_of(rows[epoch], metric))


def describe_epoch(row: Mapping[str, float], metric: str) -> str:
    """Describe the validation metrics of an epoch, such as `accuracy 0.9130, loss 0.3121`."""
    names = dict.fromkeys((metric, "loss"))
    return ", ".join(
        f"{METRIC_LABELS[name]} {row[f'validation:{name}']:.4f}" for name in names if f"validation:{name}" in row
    )


def _comparable(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def score_name(row: Mapping[str, float], part: str) -> str:
    """Return the metric name: micro F1 if multi-label (all labels are rarely correct), otherwise accuracy.

    Args:
        row: Metrics of an epoch, such as `train:loss`.
        part: `train` or `validation`.
    """
    return "micro_f1" if f"{part}:micro_f1" in row else "accuracy"


def score_of(row: Mapping[str, float], part: str) -> float:
    """Return the score of `train` or `validation`, in [0, 1].

    Raises:
        KeyError: The part was not evaluated.
    """
    return row[f"{part}:{score_name(row, part)}"]
