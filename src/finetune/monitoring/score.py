"""Score used to compare epochs."""

from __future__ import annotations

from collections.abc import Mapping


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
