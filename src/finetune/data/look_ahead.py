"""Who works ahead of the training loop?

Threads rather than processes: decoding, resizing and tokenising release the interpreter's lock, a thread starts in a
tenth of a millisecond, and nothing has to be forked, pickled or passed through shared memory.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

import torch

_I = TypeVar("_I")
_T = TypeVar("_T")

_MOST_AHEAD = 4
"""Items prepared before they are asked for: enough to even out slow records; each costs memory."""

_PATIENCE = 5.0
"""Seconds that closing waits; a thread that hangs in a read is left behind, and does not keep the process alive."""


class Crew:
    """Threads that carry out calls in the order in which they were submitted, until closed.

    Each computes with its own thread only. Otherwise every one of them would open an OpenMP pool with a thread for each
    core, against the training loop's: three of them on four cores varied 547 pictures per second so, and 828 with one
    thread each.
    """

    def __init__(self, size: int, name: str = "data") -> None:
        """Start `size` threads, called `name`."""
        self._name = name
        self.stopping = threading.Event()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ready = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        atexit.register(self.close)
        self.grow(size)

    @property
    def size(self) -> int:
        """Number of threads."""
        return len(self._threads)

    def grow(self, size: int) -> None:
        """Start further threads, up to `size`."""
        own = torch.get_num_threads()
        for number in range(self.size, size):
            thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
            self._ready.acquire()
        # The number is kept for each thread, but also as the one that later threads begin with.
        torch.set_num_threads(own)

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Have a call carried out; what it raises, the future's `result()` raises."""
        future: Future[_T] = Future()
        self._calls.put(lambda: _carry_out(call, future, self.stopping))
        return future

    def close(self) -> None:
        """Drop what is not begun, and wait for the rest; long calls look at `stopping` themselves."""
        self.stopping.set()
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            # The garbage collector may end an abandoned iteration from any thread, one of these included.
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)

    def _work(self) -> None:
        # The first look makes torch set the number to its default; a later first look would undo the 1.
        torch.get_num_threads()
        torch.set_num_threads(1)
        self._ready.release()
        while (call := self._calls.get()) is not None:
            call()


def _carry_out(call: Callable[[], _T], future: Future[_T], stopping: threading.Event) -> None:
    if stopping.is_set():
        future.cancel()
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is the consumer's, who raises it where its turn has come
        future.set_exception(error)
    else:
        future.set_result(result)


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
