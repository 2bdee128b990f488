"""The score of an epoch: the one metric by which epochs are compared."""

from __future__ import annotations

from collections.abc import Mapping


def score_name(row: Mapping[str, float], part: str) -> str:
    """Micro F1 in multi-label tasks, where a record of many labels is rarely right in all of them, else accuracy.

    Args:
        row: metrics of an epoch, such as `train:loss`.
        part: `train` or `validation`.
    """
    return "micro_f1" if f"{part}:micro_f1" in row else "accuracy"


def score_of(row: Mapping[str, float], part: str) -> float:
    """The score of `train` or `validation`, 0..1.

    Raises:
        KeyError: the part was not evaluated.
    """
    return row[f"{part}:{score_name(row, part)}"]
