"""Stratified folds for cross-validation, which keep records of every class in every training part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
SINGLE_FOLD_ABOVE = 20_000
"""Number of records above which one fifth is held out once: the estimate is precise enough, at a fifth of the time."""
NEVER_HELD_OUT = -1


@dataclass(frozen=True, slots=True)
class Folds:
    """Order of the records by fold, so that every part of a cross-validation consists of ranges.

    Attributes:
        order: int64 `[records]`, the records that are never held out first, then fold by fold.
        held_out: range of the rows of each fold, in that order.
    """

    order: NDArray[np.int64]
    held_out: tuple[range, ...]

    def training(self, fold: int) -> tuple[range, range]:
        """Return the ranges of the rows outside a fold."""
        rows = self.held_out[fold]
        return range(rows.start), range(rows.stop, len(self.order))


def make_folds(strata: NDArray[np.int64], seed: int) -> Folds:
    """Divide records into folds.

    The records of a stratum are spread evenly over the folds. Those of a stratum of two to four records are each held
    out once, with the others in training; a record that is alone in its stratum is always in training.

    Args:
        strata: int64 `[records]`, such as the index of the class of each record.
        seed: seed of the assignment.

    Returns:
        At most `FOLDS` folds, none of them empty.
    """
    assigned = np.full(len(strata), NEVER_HELD_OUT, np.int64)
    draw, offset = np.random.Generator(np.random.PCG64(seed)), 0
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        if len(members) > 1:
            assigned[draw.permutation(members)] = (offset + np.arange(len(members))) % FOLDS
            offset += len(members)
    order = np.argsort(assigned, kind="stable")
    bounds = np.searchsorted(assigned[order], range(FOLDS + 1)).tolist()
    ranges = [range(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]
    return Folds(order, tuple(ranges if len(strata) <= SINGLE_FOLD_ABOVE else ranges[:1]))


def strata_of(targets: NDArray[np.floating], *, exclusive: bool) -> NDArray[np.int64]:
    """Return the stratum of each record: its class, or the rarest of its labels, or one more without a label.

    Args:
        targets: `[records, classes]` of 0 and 1.
        exclusive: whether each record has exactly one class.
    """
    if exclusive:
        classes: NDArray[np.int64] = targets.argmax(axis=1).astype(np.int64)
        return classes
    counts: NDArray[np.floating] = targets.sum(axis=0)
    rarity = np.where(targets > 0.5, counts, np.inf)
    strata: NDArray[np.int64] = np.where(targets.any(axis=1), rarity.argmin(axis=1), targets.shape[1]).astype(np.int64)
    return strata


def sizes(folds: Sequence[range]) -> int:
    """Return the number of records that are held out once."""
    return sum(map(len, folds))
