"""Detects processes that are stopped or blocked in the kernel; the other processes would wait for them for minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOPPED_SECONDS = 20.0
"""Seconds after which a process that was stopped by a signal counts as hung."""
BLOCKED_SECONDS = 60.0
"""Seconds after which a process blocked in the kernel counts as hung if it neither computes, reads nor writes."""


@dataclass(frozen=True, slots=True)
class Hang:
    """A process that hangs.

    Attributes:
        process: Its id.
        reason: What was observed, worded to follow its name.
    """

    process: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Activity:
    """What a process was doing, and its work so far: CPU time in ticks, and bytes read and written."""

    state: str
    work: tuple[int, ...]


class HangDetector:
    """Detects states that last too long, from what the kernel reports about a process (proc(5)).

    It does not detect a process that waits for a lock or computes forever: this looks like waiting for data, or work.
    """

    def __init__(
        self,
        stopped_seconds: float = STOPPED_SECONDS,
        blocked_seconds: float = BLOCKED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Initialize without observations, with time limits for stopped and for blocked processes."""
        self._limits = {"T": stopped_seconds, "D": blocked_seconds}
        self._clock = clock
        self._since: dict[int, tuple[_Activity, float]] = {}

    def check(self, processes: Mapping[int, int]) -> dict[int, Hang]:
        """Observe the processes; call it about every second.

        Args:
            processes: Process ids by rank.

        Returns:
            The hung processes by rank.
        """
        hangs = {}
        for rank, process in processes.items():
            activity = _activity(process)
            if activity is None or activity.state not in self._limits:
                self._since.pop(process, None)
                continue
            earlier, since = self._since.get(process, (None, 0.0))
            if activity != earlier:
                since = self._clock()
                self._since[process] = activity, since
            seconds = self._clock() - since
            if seconds >= self._limits[activity.state]:
                hangs[rank] = Hang(process, _reason(activity.state, seconds))
        return hangs


def _reason(state: str, seconds: float) -> str:
    if state == "T":
        return f"was stopped by a signal, such as SIGSTOP, {seconds:.0f} s ago"
    return f"has been blocked in the kernel for {seconds:.0f} s, by a device driver, a disk or a network file system"


def _activity(process: int) -> _Activity | None:
    """Return the activity of a process; `None` if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    # Fields 3, 14 and 15 of proc_pid_stat(5): state, and time in user and in kernel mode, of all threads.
    work = [int(fields[11]), int(fields[12])]
    with suppress(OSError):  # not readable in containers without permission to trace
        lines = Path(f"/proc/{process}/io").read_text("utf-8").splitlines()
        work += [int(line.partition(":")[2]) for line in lines]
    return _Activity(fields[0], tuple(work))


def kill(hang: Hang) -> None:
    """End a hung process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(hang.process, 9)
