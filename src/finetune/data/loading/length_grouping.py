"""Groups texts of similar length into batches, to reduce padding.

Batches of randomly drawn texts are padded to the longest text of each: on the documentation of Python packages, batches
of 32 computed 3.1 times their number of tokens, and 1.03 times with this grouping. The order remains random: texts are
sorted only within pools of about fifty batches, and the batches of a pool are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finetune.data.loading.order import pool_order
from finetune.data.loading.prefetch import iterate_ahead
from finetune.data.record import Content, Reader
from finetune.errors import DataError
from finetune.runtime.worker_pool import WorkerPool

Bounds = Sequence[tuple[int, int]]

_MAX_POOL_BATCHES = 50
_MIN_POOLS = 4
"""With fewer pools, batches would contain the same texts in every epoch."""
_PIECE = 256
"""Records measured by one call."""


def split_into_pools(bounds: Bounds) -> list[Bounds]:
    """Split the batches of an epoch into pools of consecutive batches."""
    size = max(1, min(_MAX_POOL_BATCHES, len(bounds) // _MIN_POOLS))
    return [bounds[start : start + size] for start in range(0, len(bounds), size)]


def group_by_length(
    pool: NDArray[np.int64], lengths: NDArray[np.int32], sizes: Sequence[int], batch_order: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Split the positions of a pool into batches of similar length.

    Args:
        pool: positions in epoch order, which breaks ties between texts of equal length.
        lengths: length at each position.
        sizes: batch sizes, from the shortest texts to the longest.
        batch_order: order of the batches.
    """
    batches = np.split(pool[np.argsort(lengths, kind="stable")], np.cumsum(sizes)[:-1])
    return [batches[index] for index in batch_order]


@dataclass(frozen=True, slots=True)
class ExampleLengths:
    """Computes the lengths of examples.

    Attributes:
        reader: reader of the channel.
        indices: reader index of each position.
        length: returns the length of a content.
    """

    reader: Reader
    indices: Sequence[int]
    length: Callable[[Content], int]

    def __call__(self, positions: NDArray[np.int64]) -> list[int]:
        """Return the length at each position; 0 if the record cannot be read."""
        return [self._length_at(self.indices[int(position)]) for position in positions]

    def _length_at(self, index: int) -> int:
        try:
            return self.length(self.reader.read(index).content)
        except DataError:
            return 0


class LengthGroupedBatches:
    """Length-grouped batches; a function of order, lengths, seed and epoch, however lengths are measured."""

    def __init__(self, example_lengths: ExampleLengths, seed: int | None, workers: int) -> None:
        """Initialize without measuring any record.

        Args:
            example_lengths: computes lengths; called once per record.
            seed: seed of the batch order within a pool; `None` keeps batches sorted by length.
            workers: threads that measure one pool ahead; with 0, the calling thread does.
        """
        self._lengths: NDArray[np.int32] = np.full(len(example_lengths.indices), -1, np.int32)
        self._example_lengths = example_lengths
        self._seed = seed
        self._workers = workers

    @property
    def is_complete(self) -> bool:
        """Whether all lengths are known."""
        return bool((self._lengths >= 0).all())

    def measure(self, part: slice, stopped: Callable[[], bool]) -> NDArray[np.int32] | None:
        """Return the lengths of a part of the positions; `None` if `stopped` returns true."""
        positions = np.arange(len(self._lengths))[part]
        with closing(WorkerPool(max(1, self._workers))) as workers:
            pieces = (positions[start : start + _PIECE] for start in range(0, len(positions), _PIECE))
            futures = (workers.submit(partial(self._example_lengths, piece)) for piece in pieces)
            lengths: list[int] = []
            for future in iterate_ahead(futures, lambda: workers.size):
                if stopped():
                    return None
                lengths += future.result()
        return np.asarray(lengths, np.int32)

    def set_lengths(self, part: slice, lengths: NDArray[np.int32]) -> None:
        """Set the lengths of a part of the positions, as `measure` returned them."""
        self._lengths[part] = lengths

    def batches(
        self, order: NDArray[np.int64], bounds: Bounds, epoch: int, first: int
    ) -> Generator[NDArray[np.int64], None, None]:
        """Yield the positions of each batch, starting at batch `first`.

        Args:
            order: positions in epoch order; the number of records is added for each repetition of a record.
            bounds: start and stop of each batch.
            epoch: epoch number.
            first: number of batches to skip.
        """
        pools = split_into_pools(bounds)
        first_pool = first // len(pools[0]) if pools else 0
        skipped = first - sum(map(len, pools[:first_pool]))
        remaining = [order[pool[0][0] : pool[-1][1]] for pool in pools[first_pool:]]
        with closing(self._pools_with_lengths(remaining)) as measured_pools:
            for number, positions in enumerate(measured_pools, first_pool):
                sizes = [stop - start for start, stop in pools[number]]
                batch_order = self._batch_order(len(sizes), epoch, number)
                yield from group_by_length(positions, self._lengths[self._records(positions)], sizes, batch_order)[
                    skipped:
                ]
                skipped = 0

    def _batch_order(self, batches: int, epoch: int, pool: int) -> NDArray[np.int64]:
        return np.arange(batches) if self._seed is None else pool_order(batches, self._seed, epoch, pool)

    def _pools_with_lengths(self, pools: Sequence[NDArray[np.int64]]) -> Generator[NDArray[np.int64], None, None]:
        """Yield each pool once its lengths are known."""
        records = [self._records(pool) for pool in pools]
        unknown = [own[self._lengths[own] < 0] for own in records]
        if not self._workers or not any(map(len, unknown)):
            for pool, missing in zip(pools, unknown, strict=True):
                self._lengths[missing] = self._example_lengths(missing)
                yield pool
            return
        with closing(WorkerPool(self._workers)) as workers:
            submitted = (
                (pool, missing, self._submit(workers, missing)) for pool, missing in zip(pools, unknown, strict=True)
            )
            for pool, missing, futures in iterate_ahead(submitted, lambda: 1):
                self._lengths[missing] = [length for future in futures for length in future.result()]
                yield pool

    def _records(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        return order % max(1, len(self._lengths))

    def _submit(self, workers: WorkerPool, positions: NDArray[np.int64]) -> list[Future[list[int]]]:
        pieces = np.array_split(positions, workers.size)
        return [workers.submit(partial(self._example_lengths, piece)) for piece in pieces]
