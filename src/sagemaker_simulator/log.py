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
        prefix: Beginning of every line in `echo`.
    """

    path: Path
    echo: TextIO | None = None
    prefix: str = ""


class LineWatch:
    """Signals the n-th line that matches a pattern, counted over the logs of all hosts."""

    def __init__(self, pattern: str | None = None, occurrence: int = 1) -> None:
        self._pattern = None if pattern is None else re.compile(pattern)
        self._remaining = occurrence
        self._lock = threading.Lock()
        self.matched = threading.Event()

    def feed(self, line: str) -> None:
        """Process one line."""
        if self._pattern is None or not self._pattern.search(line):
            return
        with self._lock:
            self._remaining -= 1
            if self._remaining == 0:
                self.matched.set()


class LogCapture:
    """Copies lines from a pipe to a file in a thread."""

    def __init__(self, pipe: Iterable[bytes], options: LogOptions, watch: LineWatch) -> None:
        self._pipe = pipe
        self._path = options.path
        self._echo = options.echo
        self._prefix = options.prefix
        self._watch = watch
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
                self._watch.feed(text)
                self._echo_line(text)

    def _echo_line(self, text: str) -> None:
        if self._echo is None:
            return
        try:
            self._echo.write(self._prefix + text)
            self._echo.flush()
        except (OSError, ValueError):
            # The reader is gone; keep draining the pipe, otherwise the job would block.
            self._echo = None
