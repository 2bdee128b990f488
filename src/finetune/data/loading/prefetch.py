"""Prefetches items in a thread pool that grows while the consumer has to wait.

Uses threads rather than processes: decoding, resizing and tokenization release the GIL, a thread starts in 0.1 ms, and
nothing has to be forked, pickled or passed through shared memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TypeVar

from finetune.runtime.worker_pool import WorkerPool

_I = TypeVar("_I")
_E = TypeVar("_E")
_T = TypeVar("_T")

_MAX_AHEAD = 4
"""Maximum number of prefetched items: enough to absorb slow records; each one costs memory."""


def iterate_ahead(items: Iterable[_I], ahead: Callable[[], int]) -> Generator[_I, None, None]:
    """Yield the items in order, drawing `ahead()` further items before each: futures that are submitted when drawn."""
    pending: deque[_I] = deque()
    for item in items:
        pending.append(item)
        if len(pending) > ahead():
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def submit_batch(
    pool: WorkerPool,
    records: Sequence[_I],
    prepare: Callable[[Sequence[_I]], list[_E]],
    assemble: Callable[[list[_E]], _T],
) -> Future[_T]:
    """Submit a batch in one piece per thread, so that the first batch of an epoch is ready sooner.

    Args:
        pool: worker pool.
        records: records of the batch.
        prepare: returns the examples of a piece of the records.
        assemble: makes the batch of all its examples, in order.
    """
    size = max(1, -(-len(records) // pool.size))
    pieces = [pool.submit(partial(prepare, records[start : start + size])) for start in range(0, len(records), size)]
    # Calls start in order: once this one runs, its pieces are finished or running in other threads.
    return pool.submit(lambda: assemble([example for piece in pieces for example in piece.result()]))


class Prefetcher:
    """Prefetches items with as many threads as turn out to be needed.

    Starts with a few threads. Whenever an item is not ready when the consumer requests it, one more thread is added, up
    to a limit. The number of threads persists between runs.

    Attributes:
        size: number of threads; with 0, the consumer prepares the items.
        wait_seconds: total seconds spent waiting for items.
    """

    def __init__(self, size: int, max_size: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Initialize without starting a thread.

        Args:
            size: initial number of threads.
            max_size: maximum number of threads; at most `size` for a fixed number.
            clock: monotonic clock, in seconds.
        """
        self.size = size
        self.wait_seconds = 0.0
        self._max_size = max_size
        self._clock = clock

    def run_inline(self, items: Iterable[_I], prepare: Callable[[_I], _T]) -> Generator[_T, None, None]:
        """Yield the result of `prepare` for each item, without threads."""
        for item in self._timed(items):
            start = self._clock()
            result = prepare(item)
            self.wait_seconds += self._clock() - start
            yield result

    def prefetch(
        self, items: Iterable[_I], submit: Callable[[WorkerPool, _I], Future[_T]]
    ) -> Generator[_T, None, None]:
        """Yield the result for each item in order; `submit` submits an item to the worker pool.

        Re-raises the exceptions of `submit` and of its futures.
        """
        with closing(WorkerPool(self.size)) as pool:
            futures = (submit(pool, item) for item in self._timed(items))
            for number, future in enumerate(iterate_ahead(futures, lambda: min(pool.size + 1, _MAX_AHEAD))):
                yield self._wait(future, pool, may_grow=number >= _MAX_AHEAD)

    def _timed(self, items: Iterable[_I]) -> Generator[_I, None, None]:
        """Yield the items and count the time until they arrive: items from a pipe may be late."""
        iterator = iter(items)
        while True:
            start = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.wait_seconds += self._clock() - start
            yield item

    def _wait(self, future: Future[_T], pool: WorkerPool, *, may_grow: bool) -> _T:
        """Wait for an item; the first items of a run are late with any number of threads and do not trigger growth."""
        if may_grow and self.size < self._max_size and not future.done():
            self.size += 1
            pool.grow(self.size)
        start = self._clock()
        try:
            return future.result()
        finally:
            self.wait_seconds += self._clock() - start
