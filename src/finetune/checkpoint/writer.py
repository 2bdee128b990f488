"""How are checkpoints written beside training, and who hears of it when one fails?

One thread, one write at a time, none in line behind it. A caller that comes while a write is in flight waits in
`submit`; one that need not save at just this step asks `busy` first and saves at a later step instead, with a fresher
state. A line of waiting snapshots would cost their memory and hold older states, and gain nothing.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import About
from finetune.checkpoint.snapshot import Snapshot


class CheckpointTarget(Protocol):
    """Where checkpoints are written to, such as a `CheckpointStore`."""

    def write(self, snapshot: Snapshot, about: About) -> CheckpointName:
        """Write one, whole or not at all."""
        ...


class BackgroundWriter:
    """Writes snapshots in a thread of its own. For one calling thread.

    What a write raised is raised by the next call of `submit`, `wait` or `close`, once. It does not end anything: the
    checkpoints before it are intact, a snapshot given to a `submit` that raises is being written all the same, and a
    caller may go on.
    """

    def __init__(self, target: CheckpointTarget) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._in_flight: Future[CheckpointName] | None = None
        self._seconds = 0.0
        self._cpu_seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether a write is in flight, so that `submit` would wait."""
        return self._in_flight is not None and not self._in_flight.done()

    @property
    def seconds(self) -> float:
        """Seconds spent writing so far, beside training."""
        return self._seconds

    @property
    def cpu_seconds(self) -> float:
        """Seconds of them in which a core was at work rather than waiting for the disk."""
        return self._cpu_seconds

    def submit(self, snapshot: Snapshot, about: About) -> None:
        """Wait for the write in flight, if any, and begin this one. The snapshot is released when it is written.

        Raises:
            PlatformError: an earlier write failed; this one was begun.
        """
        earlier = self._finished()
        self._in_flight = self._thread.submit(self._write, snapshot, about)
        if earlier is not None:
            raise earlier

    def wait(self) -> None:
        """Return when nothing is in flight: what was submitted is on the disk.

        Raises:
            PlatformError: the last write failed, and nobody was told yet.
        """
        error = self._finished()
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait, and end the thread.

        Raises:
            PlatformError: as `wait`.
        """
        self._thread.shutdown()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def _finished(self) -> BaseException | None:
        in_flight, self._in_flight = self._in_flight, None
        return in_flight.exception() if in_flight is not None else None

    def _write(self, snapshot: Snapshot, about: About) -> CheckpointName:
        start, worked = time.monotonic(), time.thread_time()
        try:
            return self._target.write(snapshot, about)
        finally:
            snapshot.release()
            self._seconds += time.monotonic() - start
            self._cpu_seconds += time.thread_time() - worked
