"""Measures the time of a command, from its start to its exit, and the total memory of its processes.

If it is interleaved with others (`benchmarks.turns`), their share of the time is not counted.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.turns import Turn, current_turn, tree

_INTERVAL = 0.05
_MIB = 2**20


class CommandFailedError(RuntimeError):
    """A measured command failed; the message is its output."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A command that succeeded.

    Attributes:
        seconds: from starting it to its exit.
        peak_mib: peak memory of all its processes, sampled twenty times a second, and at least the kernel's own
            peak of the largest of them.
        output: its lines, each with the seconds from starting it to the arrival of the line.
    """

    seconds: float
    peak_mib: float
    output: Sequence[tuple[float, str]]

    def line(self, beginning: str) -> tuple[float, str]:
        """Time of the first line with this beginning, and the rest of it.

        Raises:
            CommandFailedError: there is none.
        """
        for when, text in self.output:
            if text.startswith(beginning):
                return when, text.removeprefix(beginning).strip()
        raise CommandFailedError(f"no line begins with {beginning!r}:\n" + "\n".join(text for _, text in self.output))


def watch(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Watched:
    """Run a command to its end.

    Raises:
        CommandFailedError: it did not exit with 0.
    """
    turn = current_turn()
    process = turn.begin(
        lambda: subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    )
    sampler = _MemorySampler(process.pid, turn)
    with sampler:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        output = [(turn.seconds, line.rstrip("\n")) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        turn.end()
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        text = "\n".join(line for _, line in output)
        raise CommandFailedError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{text}")
    return Watched(turn.seconds, max(sampler.most / _MIB, usage.ru_maxrss / 1024), output)


class _MemorySampler(threading.Thread):
    """Context manager that samples the memory of a process and its descendants."""

    def __init__(self, process: int, turn: Turn) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._process = process
        self._turn = turn
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Sample until the context is left."""
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ended.wait(_INTERVAL):
            if not self._turn.running:
                continue
            # Processes start and end in the meantime.
            with suppress(OSError, IndexError, ValueError):
                pages = sum(
                    int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) for pid in tree(self._process)
                )
                self.most = max(self.most, pages * page)
