"""Which record comes when, and with which randomness? Pure functions of seed, epoch, position and key."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of `0..count-1`, int64 `[count]`.

    It sorts positions by the raw 64-bit output of PCG64 that is seeded with (seed, epoch). NumPy promises that raw
    output and seeding stay the same on every platform and in every release, which it does not promise of
    `Generator.permutation` (NEP 19); a job may be resumed in a newer image. Equal outputs keep their order.

    Args:
        count: number of records.
        seed: not negative.
        epoch: not negative.
    """
    seeds = np.random.SeedSequence(seed, spawn_key=(epoch,))
    raw = np.random.PCG64(seeds).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)


def pool_order(count: int, seed: int, epoch: int, pool: int) -> NDArray[np.int64]:
    """Return the order of the `count` batches of a pool, a permutation like that of an epoch; int64 `[count]`."""
    seeds = np.random.SeedSequence(seed, spawn_key=(epoch, 2, pool))
    return np.argsort(np.random.PCG64(seeds).random_raw(count), kind="stable").astype(np.int64, copy=False)


def record_seed(seed: int, epoch: int, key: str) -> int:
    """Return the seed of what happens to one record in one epoch, in `0..2**64-1`.

    It depends on the record's key rather than its position, so it stays the same however the data is split or ordered.
    """
    identity = f"{seed}:{epoch}:{key}".encode()
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut `count` positions into batches: (start, stop) of each, without gaps.

    All have `batch_size` records but the last two, which share what is left: batch normalisation learns badly from a
    few records, and not at all from one (docs/decisions/last-batches.md). So none has less than half of `batch_size`,
    unless there is only one. With a `batch_size` of 2, three records at the end stay together.
    """
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if batch_size > 1 and len(bounds) > 1:
        start = bounds[-2][0]
        middle = start + (count - start + 1) // 2
        bounds[-2:] = [(start, count)] if count - start == 3 else [(start, middle), (middle, count)]
    return bounds
