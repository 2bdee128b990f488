"""Record order, batch bounds and per-record seeds: pure functions of seed, epoch, position and key."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of `0..count-1`, int64 `[count]`.

    Sorts positions by the raw 64-bit output of PCG64 seeded with (seed, epoch); ties keep their order. NumPy guarantees
    that raw output and seeding are stable across platforms and releases, but gives no such guarantee for
    `Generator.permutation` (NEP 19); a job may be resumed with a newer container image.

    Args:
        count: number of records.
        seed: non-negative seed.
        epoch: non-negative epoch number.
    """
    seeds = np.random.SeedSequence(seed, spawn_key=(epoch,))
    raw = np.random.PCG64(seeds).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)


def pool_order(count: int, seed: int, epoch: int, pool: int) -> NDArray[np.int64]:
    """Return the order of the `count` batches of a pool: a permutation as in `epoch_order`, int64 `[count]`."""
    seeds = np.random.SeedSequence(seed, spawn_key=(epoch, 2, pool))
    return np.argsort(np.random.PCG64(seeds).random_raw(count), kind="stable").astype(np.int64, copy=False)


def record_seed(seed: int, epoch: int, key: str, repetition: int = 0) -> int:
    """Return the seed for the randomness of one record in one epoch, in `0..2**64-1`.

    It depends on the record's key, not on its position, so it does not change with the split or the order.

    Args:
        seed: non-negative seed.
        epoch: non-negative epoch number.
        key: key of the record.
        repetition: how often the record was drawn before in the epoch.
    """
    identity = (f"{seed}:{epoch}:{key}" if not repetition else f"{seed}:{epoch}:{repetition}:{key}").encode()
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Split `count` positions into consecutive batches: (start, stop) of each.

    All batches have `batch_size` records except the last two, which share the remainder: batch normalization learns
    poorly from few records and fails with a single one (docs/decisions/last-batches.md). So every batch has at least
    half of `batch_size` records, unless it is the only one. With a `batch_size` of 2, the last three records form one
    batch.
    """
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if batch_size > 1 and len(bounds) > 1:
        start = bounds[-2][0]
        middle = start + (count - start + 1) // 2
        bounds[-2:] = [(start, count)] if count - start == 3 else [(start, middle), (middle, count)]
    return bounds
