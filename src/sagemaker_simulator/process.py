"""The job's process: started like a container's first process, asked to stop, or gone with its whole machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.log import LogCapture, LogOptions

MACHINE_VARIABLE = "SAGEMAKER_SIMULATOR_MACHINE"
"""Marks every process of one simulated machine, so that all of them can be found when it is taken away."""

_PATIENCE_SECONDS = 10.0


def toolkit_command() -> tuple[str, ...]:
    """The command `train` of sagemaker-training, in the Python that runs the simulator."""
    return (sys.executable, "-m", "sagemaker_training.cli.train")


@dataclass(frozen=True, slots=True)
class Program:
    """What a process is started from.

    Attributes:
        command: program and arguments.
        environment: the whole environment.
        folder: working directory.
        end: a command that ends what the process may have left running elsewhere, such as a container.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    end: Sequence[str] = ()


class JobProcess:
    """A command that runs as a job, with every process that it starts."""

    def __init__(self, program: Program, log: LogOptions, watch: tuple[str, int] | None = None) -> None:
        """Start the command.

        Args:
            program: what to start.
            log: where its output goes.
            watch: a regular expression, and the how many-th line that it matches sets `log.seen`.

        Raises:
            FileNotFoundError: there is no such program, or no such working directory.
        """
        self._machine = secrets.token_hex(16)
        self._end = tuple(program.end)
        self.started = time.monotonic()
        self._ended: float | None = None
        self._process = subprocess.Popen(  # noqa: S603 - running the caller's command is what this class is for
            list(program.command),
            env={**program.environment, MACHINE_VARIABLE: self._machine},
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - a fact of stdout=PIPE that the type does not carry
        self._pipe = self._process.stdout
        self.log = LogCapture(self._pipe, log, watch)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; whether the first process has ended."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._ended = self._ended or time.monotonic()
        return True

    @property
    def ended(self) -> float:
        """When the first process was seen to have ended, on the monotonic clock; now, while it runs."""
        return self._ended or time.monotonic()

    @property
    def exit_code(self) -> int | None:
        """As Docker reports it: 128 and the signal's number for a process that a signal ended; `None` while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Send SIGTERM to the first process and to no other, as stopping a container does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def destroy(self) -> None:
        """End every process of the job at once, wherever it went; what they wrote to the log is kept.

        A container's processes end with its first one, so this is also what follows an orderly end.

        Raises:
            TimeoutError: a process does not go away.
        """
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._end:
            subprocess.run(self._end, capture_output=True, check=False)  # noqa: S603 - the program's own end
            self._end = ()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while remaining := _processes_of(self._machine):
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {remaining} of the job do not end on SIGKILL")
            time.sleep(0.005)
        self.wait(_PATIENCE_SECONDS)
        self.log.close(_PATIENCE_SECONDS)
        self._pipe.close()


def _processes_of(machine: str) -> list[int]:
    """Living processes that inherited the machine's mark, also those in sessions of their own; Linux only."""
    mark = f"{MACHINE_VARIABLE}={machine}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in variables.split(b"\0"):
            found.append(int(entry.name))
    return found
