"""Notes of a process on its current computation, from which the agent of its host notices when it never ends.

While a process computes forever, the others wait for it. To the kernel, this looks like work; only the process knows
its computation and the usual time of one.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIN_SECONDS = 60.0
"""Minimum of the seconds after which a computation counts as endless."""
FACTOR = 30
"""A computation counts as endless after this multiple of the longest one of its kind, as lengths of texts differ."""
COUNT = 5
"""Number of computations of a kind before a limit applies: the first ones take longer."""

KINDS: Final = ("a training step", "an evaluation batch", "a batch of features")
_START = struct.Struct("=d")
_REST = struct.Struct("=dq")
_SIZE = _START.size + _REST.size


@dataclass(frozen=True, slots=True)
class Computation:
    """A computation of a process, from the last time that it waited for other processes.

    Attributes:
        kind: One of `KINDS`.
        since: Time at which it began, on the monotonic clock, which is the same for all processes of a host.
        limit: Seconds after which it counts as endless.
    """

    kind: str
    since: float
    limit: float


class _Kind:
    """Number and longest time of the computations of a kind.

    Attributes:
        number: Index in `KINDS`.
        count: Number of finished computations.
        longest: Seconds of the longest one, without waiting for other processes.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0
        self.longest = 0.0

    @property
    def limit(self) -> float:
        """Seconds after which a computation counts as endless."""
        return max(MIN_SECONDS, FACTOR * self.longest) if self.count >= COUNT else float("inf")


class _Notes:
    """Notes in a file in shared memory, which take a few microseconds per computation."""

    def __init__(self, file: Path) -> None:
        """Create the file.

        Raises:
            OSError: It cannot be created.
        """
        file.write_bytes(bytes(_SIZE))
        with file.open("r+b") as opened:
            self._bytes = mmap.mmap(opened.fileno(), _SIZE)
        self._kinds = [_Kind(number) for number in range(len(KINDS))]
        self._current: _Kind | None = None
        self._since = 0.0

    @contextmanager
    def computing(self, kind: str) -> Iterator[None]:
        current = self._kinds[KINDS.index(kind)]
        self._begin(current)
        try:
            yield
        finally:
            self._end()
            current.count += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        current = self._current
        if current is None:
            yield
            return
        self._end()
        try:
            yield
        finally:
            self._begin(current)

    def _begin(self, kind: _Kind) -> None:
        self._current, self._since = kind, time.monotonic()
        # The start comes last, since it makes the rest valid.
        _REST.pack_into(self._bytes, _START.size, kind.limit, kind.number)
        _START.pack_into(self._bytes, 0, self._since)

    def _end(self) -> None:
        if self._current is not None:
            self._current.longest = max(self._current.longest, time.monotonic() - self._since)
        self._current = None
        _START.pack_into(self._bytes, 0, 0.0)


_NOTHING = nullcontext()
_notes: list[_Notes] = []
"""Those of this process; empty if nobody reads them."""


def note_computations(file: Path) -> None:
    """Note the computations of the main thread in a file from now on, for `read_computation`.

    Raises:
        OSError: The file cannot be created.
    """
    _notes[:] = [_Notes(file)]


def computing(kind: str) -> AbstractContextManager[None]:
    """Note that the block computes, and waits for other processes at most within `waiting`.

    Args:
        kind: One of `KINDS`; those of a kind take similarly long.
    """
    return _notes[0].computing(kind) if _takes_notes() else _NOTHING


def waiting() -> AbstractContextManager[None]:
    """Note that the block waits for other processes."""
    return _notes[0].waiting() if _takes_notes() else _NOTHING


def _takes_notes() -> bool:
    return bool(_notes) and threading.current_thread() is threading.main_thread()


def read_computation(file: Path) -> Computation | None:
    """Return the current computation of a process; `None` if it does something else, or has not made the file yet."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if len(content) < _SIZE:
        return None
    (since,), (limit, number) = _START.unpack_from(content), _REST.unpack_from(content, _START.size)
    return Computation(KINDS[number], since, limit) if since else None
