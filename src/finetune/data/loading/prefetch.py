"""Who works ahead of the training loop?

Threads rather than processes: decoding, resizing and tokenising release the interpreter's lock, a thread starts in a
tenth of a millisecond, and nothing has to be forked, pickled or passed through shared memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

from finetune.runtime.worker_pool import Crew

_I = TypeVar("_I")
_T = TypeVar("_T")

_MOST_AHEAD = 4
"""Items prepared before they are asked for: enough to even out slow records; each costs memory."""


class Supply:
    """Prepares items ahead of whoever takes them, with as many threads as that turns out to need.

    It begins with a few threads. Whenever an item is not ready when its turn has come, the one who takes it is idle,
    and one more thread prepares, up to a limit. What is learnt is kept from one run to the next.

    Attributes:
        size: threads that prepare; with 0, whoever takes items prepares them.
        waited: seconds for which items were waited for, over all runs.
    """

    def __init__(self, size: int, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start nothing yet.

        Args:
            size: threads to begin with.
            most: threads to grow to; not more than `size` where the number is fixed.
            clock: seconds, increasing.
        """
        self.size = size
        self.waited = 0.0
        self._most = most
        self._clock = clock

    def alone(self, items: Iterable[_I], make: Callable[[_I], _T]) -> Generator[_T, None, None]:
        """Yield what becomes of each item, without threads."""
        for item in self._asked(items):
            began = self._clock()
            made = make(item)
            self.waited += self._clock() - began
            yield made

    def ahead(self, items: Iterable[_I], begin: Callable[[Crew, _I], Future[_T]]) -> Generator[_T, None, None]:
        """Yield what becomes of each item in order; `begin` has a crew work on one. Raises what that raises."""
        waiting: deque[Future[_T]] = deque()
        taken = 0
        with closing(Crew(self.size)) as crew:
            for item in self._asked(items):
                waiting.append(begin(crew, item))
                if len(waiting) > min(crew.size + 1, _MOST_AHEAD):
                    taken += 1
                    yield self._take(waiting.popleft(), crew, may_grow=taken > _MOST_AHEAD)
            while waiting:
                yield self._take(waiting.popleft(), crew, may_grow=False)

    def _asked(self, items: Iterable[_I]) -> Generator[_I, None, None]:
        """The items themselves may have to be waited for, where they come through a pipe."""
        iterator = iter(items)
        while True:
            began = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += self._clock() - began
            yield item

    def _take(self, future: Future[_T], crew: Crew, *, may_grow: bool) -> _T:
        """Wait for an item; the first ones of a run are late with any number of threads, and prove nothing."""
        if may_grow and self.size < self._most and not future.done():
            self.size += 1
            crew.grow(self.size)
        began = self._clock()
        try:
            return future.result()
        finally:
            self.waited += self._clock() - began
