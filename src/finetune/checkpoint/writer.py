"""Writes checkpoints in a background thread.

There is one thread and no queue. `submit` waits for a write in flight; a caller that does not have to save at this
exact step checks `busy` first and saves a more recent state at a later step instead. A queue of snapshots would take
memory for older states without a benefit.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import CheckpointInfo
from finetune.checkpoint.snapshot import Snapshot


class CheckpointTarget(Protocol):
    """Destination of checkpoints, such as a `CheckpointStore`."""

    def write(self, snapshot: Snapshot, info: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint atomically."""
        ...


class BackgroundWriter:
    """Writes snapshots in a background thread; to be used from a single thread.

    An error of a write is raised once, by the next call of `submit`, `wait` or `close`. It is not fatal: earlier
    checkpoints are intact, the snapshot passed to a `submit` that raises is still being written, and the caller may
    continue.
    """

    def __init__(self, target: CheckpointTarget) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._in_flight: Future[CheckpointName] | None = None
        self._seconds = 0.0
        self._cpu_seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether a write is in flight, so that `submit` would block."""
        return self._in_flight is not None and not self._in_flight.done()

    @property
    def seconds(self) -> float:
        """Seconds spent writing so far in the background."""
        return self._seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the writes so far in seconds, without waiting for the disk."""
        return self._cpu_seconds

    def submit(self, snapshot: Snapshot, info: CheckpointInfo) -> None:
        """Wait for any write in flight, then start this one; the snapshot is released once written.

        Raises:
            PlatformError: An earlier write failed; this one was started.
        """
        earlier_error = self._wait_in_flight()
        self._in_flight = self._thread.submit(self._write, snapshot, info)
        if earlier_error is not None:
            raise earlier_error

    def wait(self) -> None:
        """Wait until all submitted snapshots are on the disk.

        Raises:
            PlatformError: The last write failed and the error has not been raised yet.
        """
        error = self._wait_in_flight()
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the writes and stop the thread.

        Raises:
            PlatformError: See `wait`.
        """
        self._thread.shutdown()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def _wait_in_flight(self) -> BaseException | None:
        in_flight, self._in_flight = self._in_flight, None
        return in_flight.exception() if in_flight is not None else None

    def _write(self, snapshot: Snapshot, info: CheckpointInfo) -> CheckpointName:
        start, cpu_start = time.monotonic(), time.thread_time()
        try:
            return self._target.write(snapshot, info)
        finally:
            snapshot.release()
            self._seconds += time.monotonic() - start
            self._cpu_seconds += time.thread_time() - cpu_start
