"""Detects processes that are stopped, are blocked in the kernel or compute forever; the others would wait for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune.runtime.computations import Computation

STOPPED_SECONDS = 20.0
"""Seconds after which a process that was stopped by a signal counts as hung."""
BLOCKED_SECONDS = 60.0
"""Seconds after which a process blocked in the kernel counts as hung if it neither computes, reads nor writes."""

_MAX_SECONDS_BETWEEN_CHECKS = 5.0
"""Seconds between two checks that count at most: the agent may have been suspended together with the processes."""


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

    It does not detect a process that waits for a lock or computes forever, which looks like waiting for data, or work:
    see `EndlessComputations`.
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


class EndlessComputations:
    """Detects computations of processes that take much longer than all earlier ones of their kind."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Initialize without observations."""
        self._clock = clock
        self._checked: float | None = None
        self._seconds: dict[int, tuple[Computation, float]] = {}

    def check(self, computations: Mapping[int, Computation | None], processes: Mapping[int, int]) -> dict[int, Hang]:
        """Observe the processes; call it about every second.

        Args:
            computations: The current computations by rank.
            processes: Process ids by rank.

        Returns:
            The hung processes by rank.
        """
        now = self._clock()
        passed = min(now - (now if self._checked is None else self._checked), _MAX_SECONDS_BETWEEN_CHECKS)
        self._checked = now
        hangs = {}
        for rank, computation in computations.items():
            earlier, seconds = self._seconds.pop(rank, (None, 0.0))
            if computation is None:
                continue
            seconds = seconds + passed if computation == earlier else 0.0
            self._seconds[rank] = computation, seconds
            if seconds >= computation.limit and rank in processes:
                hangs[rank] = Hang(
                    processes[rank], f"has computed {computation.kind} for {seconds:.0f} s without an end"
                )
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
