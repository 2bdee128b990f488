"""The job's process: started like a container's first process, stopped, or killed with its machine."""

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

from sagemaker_simulator.log import LineWatch, LogCapture, LogOptions
from sagemaker_simulator.process_tree import children, find_ranks, marked_processes

MACHINE_VARIABLE = "SAGEMAKER_SIMULATOR_MACHINE"
"""Environment variable that marks every process of a simulated machine, to find all of them when it is lost."""

_KILL_TIMEOUT_SECONDS = 10.0


def toolkit_command() -> tuple[str, ...]:
    """Return the `train` command of sagemaker-training in the Python that runs the simulator."""
    return (sys.executable, "-m", "sagemaker_training.cli.train")


@dataclass(frozen=True, slots=True)
class Program:
    """Program to start as a process.

    Attributes:
        command: Program and arguments.
        environment: The complete environment.
        folder: Working directory.
        end: Command that ends anything the process may have left running elsewhere, such as a container.
        enter: Command that runs `command` elsewhere as its child, waits for it, and ends as it does.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    end: Sequence[str] = ()
    enter: Sequence[str] = ()


class JobProcess:
    """A command run as a job, with all of its child processes."""

    def __init__(self, program: Program, log: LogOptions, watch: LineWatch) -> None:
        """Start the command.

        Args:
            program: Program to start.
            log: Destination of its output.
            watch: Receives every line of the output.

        Raises:
            FileNotFoundError: The program or the working directory does not exist.
        """
        self._machine = secrets.token_hex(16)
        self._end = tuple(program.end)
        self._is_first = not program.enter
        self.started = time.monotonic()
        self._ended: float | None = None
        self._process = subprocess.Popen(  # noqa: S603 - this class runs the caller's command
            [*program.enter, *program.command],
            env={**program.environment, MACHINE_VARIABLE: self._machine},
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - implied by stdout=PIPE, but not by the type
        self._pipe = self._process.stdout
        self.log = LogCapture(self._pipe, log, watch)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether the first process has ended."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._ended = self._ended or time.monotonic()
        return True

    @property
    def ended(self) -> float:
        """Time at which the first process was seen to have ended, on the monotonic clock; now, while it runs."""
        return self._ended or time.monotonic()

    @property
    def exit_code(self) -> int | None:
        """Exit code as in Docker: 128 plus the signal number if ended by a signal; `None` while running."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Send SIGTERM to the first process only, as when stopping a container."""
        if self._process.poll() is not None:
            return
        for pid in (self._process.pid,) if self._is_first else children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill_rank(self, number: int) -> None:
        """Kill one of the processes that train with SIGKILL.

        Args:
            number: Number of the process, modulo their number.
        """
        ranks = find_ranks(_mark(self._machine))
        if ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[number % len(ranks)], signal.SIGKILL)

    def destroy(self) -> None:
        """Kill all processes of the job immediately, including detached ones; their log output is kept.

        A container's processes end with its first one, so this also follows a normal end.

        Raises:
            TimeoutError: A process does not end.
        """
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._end:
            subprocess.run(self._end, capture_output=True, check=False)  # noqa: S603 - the program's own end command
            self._end = ()
        deadline = time.monotonic() + _KILL_TIMEOUT_SECONDS
        while remaining := marked_processes(_mark(self._machine)):
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {remaining} of the job did not end after SIGKILL")
            time.sleep(0.005)
        self.wait(_KILL_TIMEOUT_SECONDS)
        self.log.close(_KILL_TIMEOUT_SECONDS)
        self._pipe.close()


def _mark(machine: str) -> bytes:
    return f"{MACHINE_VARIABLE}={machine}".encode()
