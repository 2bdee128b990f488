"""Runs a user's script as a process group: forwards SIGTERM to all its processes, and reports its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from finetune.errors import UserError
from finetune.sagemaker.failure import Failure

GRACEFUL_EXIT_SECONDS = 90.0
"""Seconds that children of a stopped script may outlive it; the platform kills all processes 120 s after SIGTERM."""


def run_script(command: Sequence[str], code: Path) -> Failure | None:
    """Run a script to its end, and forward SIGTERM to it and all its child processes.

    Args:
        command: program and arguments.
        code: working directory.

    Returns:
        The failure, or `None` if it ended with exit code 0.

    Raises:
        OSError: the program does not exist.
    """
    script = _Script()
    previous = signal.signal(signal.SIGTERM, script.stop)
    try:
        exit_code = script.run(command, code)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return _failure(exit_code, command)


class _Script:
    def __init__(self) -> None:
        self._stopped = False
        self._group: int | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stopped = True
        self._forward_sigterm()

    def run(self, command: Sequence[str], code: Path) -> int:
        process = subprocess.Popen(command, cwd=code, process_group=0)  # noqa: S603 - the user's script is the job
        self._group = process.pid
        if self._stopped:
            self._forward_sigterm()
        exit_code = process.wait()
        if self._stopped:
            self._wait_for_group()
        return exit_code

    def _forward_sigterm(self) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGTERM)

    def _wait_for_group(self) -> None:
        """Wait for the process group: a shell ends on SIGTERM at once, while the program it ran may still be saving."""
        deadline = time.monotonic() + GRACEFUL_EXIT_SECONDS
        with suppress(ProcessLookupError):
            while self._group is not None and time.monotonic() < deadline:
                os.killpg(self._group, 0)
                time.sleep(0.05)


def _failure(exit_code: int, command: Sequence[str]) -> Failure | None:
    if not exit_code:
        return None
    shown = " ".join(command)
    # A shell reports a program killed by a signal as exit code 128 plus the signal number.
    number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < number < signal.NSIG and number in set(signal.Signals):
        name = signal.Signals(number).name
        return Failure(f"The script was terminated by {name}.\nCommand: {shown}", 128 + number, expected=True)
    cause = f"The script ended with exit code {exit_code}; see the log for the cause.\nCommand: {shown}"
    return Failure(cause, UserError.exit_code, expected=True)
