"""Captures a job's standard output and error: writes a file, echoes on request, and watches for a line."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Destination of a job's log.

    Attributes:
        path: Log file; created or truncated.
        echo: Stream that receives the same lines while the job runs.
    """

    path: Path
    echo: TextIO | None = None


class LogCapture:
    """Copies lines from a pipe to a file in a thread, and signals the n-th match of a pattern."""

    def __init__(self, pipe: Iterable[bytes], options: LogOptions, watch: tuple[str, int] | None) -> None:
        self._pipe = pipe
        self._path = options.path
        self._echo = options.echo
        self._pattern = re.compile(watch[0]) if watch else None
        self._remaining = watch[1] if watch else 0
        self.matched = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="job-log", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Wait until the pipe is closed, at most `timeout` seconds."""
        self._thread.join(timeout)

    def _copy(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for line in self._pipe:
                file.write(line)
                text = line.decode("utf-8", errors="replace")
                self._match_line(text)
                self._echo_line(text)

    def _echo_line(self, text: str) -> None:
        if self._echo is None:
            return
        try:
            self._echo.write(text)
            self._echo.flush()
        except (OSError, ValueError):
            # The reader is gone; keep draining the pipe, otherwise the job would block.
            self._echo = None

    def _match_line(self, text: str) -> None:
        if self._pattern is not None and self._pattern.search(text):
            self._remaining -= 1
            if self._remaining == 0:
                self.matched.set()
