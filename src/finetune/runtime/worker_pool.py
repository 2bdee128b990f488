"""Worker pool whose threads each compute on a single core."""

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

_CLOSE_TIMEOUT = 5.0
"""Seconds that closing waits; a thread blocked in a read is abandoned, and does not keep the process alive."""


class WorkerPool:
    """Worker pool that runs calls in the order of submission, until closed.

    Each worker uses a single torch thread. Otherwise each would open an OpenMP pool with a thread per core, competing
    with the training loop: three workers on four cores augmented 547 images per second this way, and 828 with one
    thread each.
    """

    def __init__(self, size: int, name: str = "data") -> None:
        """Start `size` threads with names that begin with `name`."""
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
        threads_before = torch.get_num_threads()
        for number in range(self.size, size):
            thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
            self._ready.acquire()
        # Setting the number in a worker also changes the default for new threads: restore it.
        torch.set_num_threads(threads_before)

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Submit a call; `result()` of the future raises its exception."""
        future: Future[_T] = Future()
        self._calls.put(lambda: _run_call(call, future, self.stopping))
        return future

    def close(self) -> None:
        """Cancel pending calls and wait for running ones; long calls check `stopping` themselves."""
        self.stopping.set()
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for thread in self._threads:
            # The garbage collector may close an abandoned iterator in any thread, including these.
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)

    def _work(self) -> None:
        # The first query makes torch set the number to its default; a later first query would undo the 1.
        torch.get_num_threads()
        torch.set_num_threads(1)
        self._ready.release()
        while (call := self._calls.get()) is not None:
            call()


def _run_call(call: Callable[[], _T], future: Future[_T], stopping: threading.Event) -> None:
    if stopping.is_set():
        future.cancel()
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - re-raised in the consumer by `result()`
        future.set_exception(error)
    else:
        future.set_result(result)
