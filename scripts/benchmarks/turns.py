"""How do several commands share a machine whose speed changes from minute to minute, so that all of them meet the same?

Only one of them runs at a time, the others are stopped (SIGSTOP), and so are their clocks.
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
"""Seconds; short beside the seconds for which a host is slow, long beside filling a processor's caches again."""


class Turn:
    """What one command has had of the machine: all the time, as long as nobody pauses it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._lock = threading.Lock()
        self._process = 0
        self._before = 0.0
        self._since: float | None = None

    @property
    def running(self) -> bool:
        """Whether the command is neither stopped nor ended."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long the command has run, pauses not counted."""
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
        """The command has ended."""
        self._process = 0
        self._halt()

    def pause(self) -> None:
        """Stop all processes of the command, and its clock."""
        self._send(signal.SIGSTOP)
        self._halt()

    def resume(self) -> None:
        """Let them go on."""
        if self._process:
            self._go()
            self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End all processes of the command."""
        self._send(signal.SIGSTOP)
        # All at once: who has lost its parent is found no more.
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
        # From the first process on: one that is stopped starts no others meanwhile.
        for process in tree(self._process) if processes is None else processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)


_TAKEN: ContextVar[Turn | None] = ContextVar("_TAKEN", default=None)


def taken() -> Turn:
    """Whose turn it is for a command that is started here: that of `by_turns`, or one that nobody pauses."""
    return _TAKEN.get() or Turn()


def by_turns(*sides: Callable[[], None]) -> None:
    """Carry out calls each of which watches one command; the commands run by turns of half a second.

    One after the other where there is a GPU, which would go on computing for a process that is stopped.

    Raises:
        Exception: the first that a call raised; the others' commands are ended.
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
    """One of the calls; its command begins when its first turn has come."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.turn = Turn()
        self._ended = threading.Event()
        self._call = call
        self._error: BaseException | None = None

    def go_on(self, seconds: float) -> bool:
        """Let it run for so long, or to its end, and tell whether that was reached."""
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
        """Carry out the call."""
        _TAKEN.set(self.turn)
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - re-raised by `by_turns`
            self._error = error
        finally:
            self._ended.set()


def tree(process: int) -> Iterator[int]:
    """A process and all its descendants, as long as they are there; none where there is no process, 0."""
    if not process:
        return
    yield process
    with suppress(OSError):
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text("utf-8").split():
                yield from tree(int(child))
