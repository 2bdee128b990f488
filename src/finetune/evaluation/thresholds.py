"""Decision thresholds that reach a target precision or recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdTarget:
    """Target on validation; exactly one of both is set."""

    precision: float | None = None
    recall: float | None = None

    def __str__(self) -> str:
        """The target in words, for messages."""
        return f"precision {self.precision:g}" if self.precision is not None else f"recall {self.recall or 0:g}"


@dataclass(frozen=True, slots=True)
class ChosenThresholds:
    """Selected thresholds.

    Attributes:
        thresholds: by class; a class is predicted if its probability is above its threshold. For two exclusive classes,
            both follow from the threshold of the second one.
        missed: classes for which no threshold reaches the target; theirs are 0.5.
    """

    thresholds: tuple[float, ...]
    missed: tuple[str, ...]


def choose_thresholds(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str], target: ThresholdTarget
) -> ChosenThresholds:
    """Find the thresholds that reach the target at the least cost to the other quantity.

    Args:
        targets: 0 and 1 `[records, classes]`, or class indices `[records]` of two classes.
        probabilities: `[records, classes]`.
        labels: class names.
        target: precision or recall to reach.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    if targets.ndim == 1:
        found = find_threshold(np.asarray(targets) == 1, scores[:, 1], target)
        chosen = 0.5 if found is None else found
        return ChosenThresholds((1 - chosen, chosen), (labels[1],) if found is None else ())
    each = [find_threshold(np.asarray(column) > 0.5, scores[:, at], target) for at, column in enumerate(targets.T)]
    missed = tuple(name for name, found in zip(labels, each, strict=True) if found is None)
    return ChosenThresholds(tuple(0.5 if found is None else found for found in each), missed)


def find_threshold(positive: NDArray[np.bool_], scores: Floats, target: ThresholdTarget) -> float | None:
    """The lowest threshold with the target precision, or the highest with the target recall; `None` if there is none.

    The threshold is the midpoint of two scores, so that rounding does not change decisions.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(np.diff(sorted_scores) < 0, True))
    # No threshold is below a score of 0.
    ends = ends[sorted_scores[ends] > 0]
    precision, recall = hits[ends] / (ends + 1), hits[ends] / positive.sum()
    if target.precision is not None:
        metrics_at_thresholds = np.flatnonzero(precision >= target.precision)
        at = metrics_at_thresholds[-1:] if len(metrics_at_thresholds) else metrics_at_thresholds
    else:
        at = np.flatnonzero(recall >= (target.recall or 0))[:1]
    if not len(at):
        return None
    last = int(ends[int(at[0])])
    below = sorted_scores[last + 1] if last + 1 < len(scores) else 0.0
    return float((sorted_scores[last] + below) / 2)


def metrics_at_thresholds(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str], decision: ChosenThresholds
) -> dict[str, dict[str, float | None]]:
    """Precision and recall at the thresholds, by class; of two exclusive classes only the second one."""
    truth = np.asarray(targets)
    positive = truth > 0.5 if truth.ndim == 2 else np.stack([truth == 0, truth == 1], axis=1)
    said = np.asarray(probabilities, dtype=np.float64) > np.array(decision.thresholds)
    rows: dict[str, dict[str, float | None]] = {}
    for at, label in enumerate(labels):
        if truth.ndim == 1 and at == 0:
            continue
        hits, named, there = (positive & said)[:, at].sum(), said[:, at].sum(), positive[:, at].sum()
        rows[label] = {
            "precision": float(hits / named) if named else None,
            "recall": float(hits / there) if there else None,
        }
    return rows
