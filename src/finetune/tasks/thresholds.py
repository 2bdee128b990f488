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
        threshold = find_threshold(np.asarray(targets) == 1, scores[:, 1], target)
        missed: tuple[str, ...] = (labels[1],) if threshold is None else ()
        threshold = 0.5 if threshold is None else threshold
        return ChosenThresholds((1 - threshold, threshold), missed)
    columns = zip((np.asarray(targets) > 0.5).T, scores.T, strict=True)
    thresholds = [find_threshold(positive, column, target) for positive, column in columns]
    missed = tuple(label for label, threshold in zip(labels, thresholds, strict=True) if threshold is None)
    return ChosenThresholds(tuple(0.5 if threshold is None else threshold for threshold in thresholds), missed)


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
        cuts = np.flatnonzero(precision >= target.precision)[-1:]
    else:
        cuts = np.flatnonzero(recall >= (target.recall or 0))[:1]
    if not len(cuts):
        return None
    last = int(ends[int(cuts[0])])
    next_score = sorted_scores[last + 1] if last + 1 < len(scores) else 0.0
    return float((sorted_scores[last] + next_score) / 2)


def metrics_at_thresholds(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str], decision: ChosenThresholds
) -> dict[str, dict[str, float | None]]:
    """Precision and recall at the thresholds, by class; of two exclusive classes only the second one."""
    truth = np.asarray(targets)
    positive = truth > 0.5 if truth.ndim == 2 else np.stack([truth == 0, truth == 1], axis=1)
    predicted = np.asarray(probabilities, dtype=np.float64) > np.array(decision.thresholds)
    hits = (positive & predicted).sum(axis=0)
    rows: dict[str, dict[str, float | None]] = {}
    for index, label in enumerate(labels):
        if truth.ndim == 1 and index == 0:
            continue
        predictions, support = predicted[:, index].sum(), positive[:, index].sum()
        rows[label] = {
            "precision": float(hits[index] / predictions) if predictions else None,
            "recall": float(hits[index] / support) if support else None,
        }
    return rows
