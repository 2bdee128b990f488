"""How do several threads compute beside each other, each with a core of its own?"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

_T = TypeVar("_T")

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
