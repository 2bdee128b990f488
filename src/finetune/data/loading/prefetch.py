"""Prefetches items in a thread pool that grows while the consumer has to wait.

Uses threads rather than processes: decoding, resizing and tokenization release the GIL, a thread starts in 0.1 ms, and
nothing has to be forked, pickled or passed through shared memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

from finetune.runtime.worker_pool import WorkerPool

_I = TypeVar("_I")
_T = TypeVar("_T")

_MOST_AHEAD = 4
"""Maximum number of prefetched items: enough to absorb slow records; each one costs memory."""


class Prefetcher:
    """Prefetches items with as many threads as turn out to be needed.

    Starts with a few threads. Whenever an item is not ready when the consumer requests it, one more thread is added, up
    to a limit. The number of threads persists between runs.

    Attributes:
        size: number of threads; with 0, the consumer prepares the items.
        waited: total seconds spent waiting for items.
    """

    def __init__(self, size: int, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Initialize without starting a thread.

        Args:
            size: initial number of threads.
            most: maximum number of threads; at most `size` for a fixed number.
            clock: monotonic clock, in seconds.
        """
        self.size = size
        self.wait_seconds = 0.0
        self._most = most
        self._clock = clock

    def alone(self, items: Iterable[_I], make: Callable[[_I], _T]) -> Generator[_T, None, None]:
        """Yield the result of `make` for each item, without threads."""
        for item in self._asked(items):
            began = self._clock()
            made = make(item)
            self.wait_seconds += self._clock() - began
            yield made

    def ahead(self, items: Iterable[_I], begin: Callable[[WorkerPool, _I], Future[_T]]) -> Generator[_T, None, None]:
        """Yield the result for each item in order; `begin` submits an item to the worker pool.

        Re-raises the exceptions of `begin` and of its futures.
        """
        waiting: deque[Future[_T]] = deque()
        taken = 0
        with closing(WorkerPool(self.size)) as crew:
            for item in self._asked(items):
                waiting.append(begin(crew, item))
                if len(waiting) > min(crew.size + 1, _MOST_AHEAD):
                    taken += 1
                    yield self._take(waiting.popleft(), crew, may_grow=taken > _MOST_AHEAD)
            while waiting:
                yield self._take(waiting.popleft(), crew, may_grow=False)

    def _asked(self, items: Iterable[_I]) -> Generator[_I, None, None]:
        """Yield the items and count the time until they arrive: items from a pipe may be late."""
        iterator = iter(items)
        while True:
            began = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.wait_seconds += self._clock() - began
            yield item

    def _take(self, future: Future[_T], crew: WorkerPool, *, may_grow: bool) -> _T:
        """Wait for an item; the first items of a run are late with any number of threads and do not trigger growth."""
        if may_grow and self.size < self._most and not future.done():
            self.size += 1
            crew.grow(self.size)
        began = self._clock()
        try:
            return future.result()
        finally:
            self.wait_seconds += self._clock() - began
