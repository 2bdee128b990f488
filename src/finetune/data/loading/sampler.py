"""Draws the records of an epoch with replacement, so that all classes are drawn equally often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BalancedSampler:
    """Draws as many records as there are: each time a class, then one of its records, both uniformly.

    Attributes:
        classes: the records of each class, none empty; a record may belong to several.
        count: number of records.
    """

    classes: tuple[NDArray[np.int64], ...]
    count: int

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the draws of an epoch, int64 `[count]`: a pure function of its arguments.

        The number of records is added to a record for each time it was drawn before in the epoch. As in
        `epoch_order`, all randomness is the raw output of PCG64; its remainders are uniform up to count / 2**64.
        """
        raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, 3))).random_raw(2 * self.count)
        sizes = np.array([len(records) for records in self.classes], np.uint64)
        drawn = (raw[: self.count] % np.uint64(len(self.classes))).astype(np.int64)
        places = (raw[self.count :] % sizes[drawn]).astype(np.int64)
        starts = np.cumsum([0, *sizes[:-1].tolist()])
        records = np.concatenate(self.classes)[starts[drawn] + places]
        return records + self.count * _repetitions(records)


def balanced_sampler(labels: Sequence[Sequence[str]]) -> BalancedSampler:
    """Return the sampler of records with these class names; records without any are a class of their own."""
    classes: dict[str | None, list[int]] = {}
    for record, names in enumerate(labels):
        own: set[str | None] = {*names} or {None}
        for name in own:
            classes.setdefault(name, []).append(record)
    # In an order that does not depend on the hashes of the names.
    ordered = sorted(classes.items(), key=lambda item: (item[0] is not None, item[0] or ""))
    return BalancedSampler(tuple(np.array(records, np.int64) for _, records in ordered), len(labels))


def _repetitions(records: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each element occurs before in the array."""
    order = np.argsort(records, kind="stable")
    ordered = records[order]
    is_first = np.ones(len(records), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    indices = np.arange(len(records))
    repetitions = np.empty(len(records), np.int64)
    repetitions[order] = indices - np.maximum.accumulate(np.where(is_first, indices, 0))
    return repetitions
