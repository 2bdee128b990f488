"""Interleaves several commands on a machine whose speed changes from minute to minute, so that all see the same speed.

Only one of them runs at a time; the others are stopped (SIGSTOP), and so are their clocks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

from benchmarks.machine import on_gpu

_TURN = 0.5
"""Seconds; short compared with slow periods of a host, long compared with refilling the processor's caches."""


class Turn:
    """The machine time of one command: all the time, unless it is paused."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._lock = threading.Lock()
        self._process = 0
        self._before = 0.0
        self._since: float | None = None

    @property
    def running(self) -> bool:
        """Whether the command is running, that is, not stopped and not ended."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds that the command has run, without pauses."""
        with self._lock:
            return self._before + (time.monotonic() - self._since if self._since is not None else 0.0)

    def begin(self, start: Callable[[], subprocess.Popen[str]]) -> subprocess.Popen[str]:
        """Start the clock and the command."""
        self._go()
        process = start()
        self._process = process.pid
        self.begun.set()
        return process

    def end(self) -> None:
        """Mark the command as ended."""
        self._process = 0
        self._halt()

    def pause(self) -> None:
        """Pause all processes of the command, and its clock."""
        self._send(signal.SIGSTOP)
        self._halt()

    def resume(self) -> None:
        """Resume them."""
        if self._process:
            self._go()
            self._send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all processes of the command."""
        self._send(signal.SIGSTOP)
        # All at once: orphaned processes can no longer be found.
        self._send(signal.SIGKILL, tuple(tree(self._process)))

    def _go(self) -> None:
        with self._lock:
            self._since = time.monotonic()

    def _halt(self) -> None:
        with self._lock:
            if self._since is not None:
                self._before += time.monotonic() - self._since
            self._since = None

    def _send(self, number: signal.Signals, processes: Iterable[int] | None = None) -> None:
        # From the first process on: a stopped one starts no others in the meantime.
        for process in tree(self._process) if processes is None else processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)


_TAKEN: ContextVar[Turn | None] = ContextVar("_TAKEN", default=None)


def current_turn() -> Turn:
    """The turn for a command started here: that of `by_turns`, or one that is never paused."""
    return _TAKEN.get() or Turn()


def by_turns(*sides: Callable[[], None]) -> None:
    """Run calls that each watch one command; the commands alternate every half second.

    They run in sequence if there is a GPU, which would continue to compute for a stopped process.

    Raises:
        Exception: the first one raised by a call; the commands of the others are killed.
    """
    if on_gpu():
        for call in sides:
            call()
        return
    waiting = [_Side(side) for side in sides]
    try:
        while waiting:
            waiting = [side for side in waiting if not side.go_on(_TURN)]
    finally:
        for side in waiting:
            side.turn.kill()


class _Side(threading.Thread):
    """One of the calls; its command starts with its first turn."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.turn = Turn()
        self._ended = threading.Event()
        self._call = call
        self._error: BaseException | None = None

    def go_on(self, seconds: float) -> bool:
        """Run for `seconds`, or to its end; return whether it has ended."""
        if self.ident is None:
            self.start()
            while not self.turn.begun.wait(seconds) and not self._ended.is_set():
                pass
        else:
            self.turn.resume()
        if not self._ended.wait(seconds):
            self.turn.pause()
            return False
        if self._error is not None:
            raise self._error
        return True

    def run(self) -> None:
        """Run the call."""
        _TAKEN.set(self.turn)
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - re-raised by `by_turns`
            self._error = error
        finally:
            self._ended.set()


def tree(process: int) -> Iterator[int]:
    """A process and all its live descendants; nothing for process 0, which means no process."""
    if not process:
        return
    yield process
    with suppress(OSError):
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text("utf-8").split():
                yield from tree(int(child))
