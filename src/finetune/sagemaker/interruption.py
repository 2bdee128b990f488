"""Turns SIGTERM into a flag that the training loop checks.

SageMaker sends SIGTERM when a job is stopped or its spot capacity is reclaimed, and SIGKILL 120 seconds later. The
handler only sets the flag: the current step is finished, the state is saved, and the process exits cleanly.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """Whether the job was asked to stop; a context manager that handles SIGTERM while it is open.

    A second SIGTERM changes nothing. Outside the main thread, where Python allows no signal handlers, it does nothing.

    Args:
        ends_process: whether the process ends afterwards: SIGTERM is then ignored instead of handled as before, as it
            would turn a success into a failure while the interpreter shuts down.
    """

    def __init__(self, *, ends_process: bool = False) -> None:
        self._ends_process = ends_process
        self._requested_at: float | None = None
        self._previous: object = None
        self._installed = False
        self._error: type[Exception] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            previous = signal.SIG_IGN if self._ends_process else self._previous
            signal.signal(signal.SIGTERM, previous)  # type: ignore[arg-type]  # the value that signal() returned
            self._installed = False

    @contextmanager
    def raising(self, error: type[Exception]) -> Iterator[None]:
        """Raise `error` in the main thread on a request while the block runs, including an earlier request.

        For work with nothing worth saving that never checks the flag: reading and checking the data.

        Raises:
            Exception: of the given type, also in place of another one that the interrupted code raised because of it.
        """
        self._error = error
        try:
            if self.requested():
                raise error
            yield
        except Exception as failure:
            if self.requested() and not isinstance(failure, error):
                raise error from failure
            raise
        finally:
            self._error = None

    def requested(self) -> bool:
        """Whether the job was asked to stop."""
        return self._requested_at is not None

    def request(self) -> None:
        """Request the job to stop, as SIGTERM does."""
        if self._requested_at is None:
            self._requested_at = time.monotonic()

    @property
    def seconds_ago(self) -> float:
        """Seconds since the request, 0 without one."""
        return 0.0 if self._requested_at is None else time.monotonic() - self._requested_at

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.request()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
