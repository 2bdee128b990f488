"""Decision thresholds that reach a target precision or recall."""

from __future__ import annotations

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


def precision_and_recall(positive: NDArray[np.bool_], scores: Floats, threshold: float) -> dict[str, float | None]:
    """Precision and recall of a class at a threshold; `None` where nothing is predicted, or no record is positive."""
    predicted = scores > threshold
    hits, predictions, support = (positive & predicted).sum(), predicted.sum(), positive.sum()
    return {
        "precision": float(hits / predictions) if predictions else None,
        "recall": float(hits / support) if support else None,
    }
