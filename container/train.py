#!/opt/venv/bin/python -I
"""The image's `train`, the container's first process: forwards stop signals to the job, and reports its result.

A first process has duties that sagemaker-training does not fulfil: signals without a handler are lost, orphaned
processes are reaped by no other process, and the platform judges success by its exit code alone. So the job runs in
its own process (`container.job`), and this one only waits.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.sagemaker.failure import Failure

WATCHED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
JOB = ("-P", "-m", "container.job")
LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
"""Environment variable for memory in pages of 2 MiB, if the kernel provides them on request. It is read only at the
start of a process (docs/decisions/performance.md)."""
HINTS: dict[int, str] = {
    signal.SIGKILL: ", most often because memory ran out: use a smaller batch_size or a larger instance",
    signal.SIGTERM: ", which it was not prepared for",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """Exit status of the job's process.

    Attributes:
        exit_code: 128 plus the signal number if a signal ended it.
        signal: signal number, or 0.
        stopped: whether it had been asked to stop.
    """

    exit_code: int
    signal: int
    stopped: bool


def main() -> int:
    """Run the job of this container and return its exit code."""
    # Before anything else: blocked signals stay pending for sigwait; a first process would lose unblocked ones.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    from finetune.sagemaker.paths import Paths

    paths = Paths.from_environment()
    success = paths.output / "success"
    for left_behind in (success, paths.failure):
        with suppress(OSError):
            left_behind.unlink()
    ending = run((sys.executable, *JOB))
    failure = failure_of_ending(ending, said_success=_is_there(success))
    if failure is None:
        return 0
    from finetune.sagemaker.failure import write_failure  # a late import does not delay the start of the job

    if not _is_there(paths.failure):
        sys.stderr.write(f"{failure.message}\n")
    write_failure(paths, failure)
    return failure.exit_code


def _is_there(file: Path) -> bool:
    """Whether a file exists; `False` if its folder is not accessible."""
    try:
        return file.exists()
    except OSError:
        return False


def run(command: tuple[str, ...]) -> Ending:
    """Run a command until it ends; send it SIGTERM when this process receives SIGTERM.

    The command gets its own session, so that an interrupt from a terminal reaches it only once, forwarded by this
    process as SIGTERM, the platform's signal. All other children that end in the meantime are reaped.

    Args:
        command: absolute path of the program, and its arguments. `WATCHED` must be blocked; SIGTERM stays blocked in
            the command, until it has installed a handler and unblocks it.
    """
    environment = dict([LARGE_PAGES]) | os.environ
    child = os.posix_spawn(command[0], command, environment, setsid=True, setsigmask={signal.SIGTERM})
    stopped = False
    while True:
        if signal.sigwait(WATCHED) != signal.SIGCHLD:
            stopped = True
            os.kill(child, signal.SIGTERM)
            continue
        status = _reap(child)
        if status is not None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            return Ending(128 + number if number else os.WEXITSTATUS(status), number, stopped)


def _reap(child: int) -> int | None:
    """Reap all children that have ended; return the wait status of `child` if it is among them."""
    found = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                found = status
            if not pid:
                break
    return found


def failure_of_ending(ending: Ending, *, said_success: bool) -> Failure | None:
    """The failure implied by the exit status, for jobs that did not report one; `None` on success.

    Args:
        ending: of the job's process.
        said_success: whether sagemaker-training wrote `output/success`. It also exits with 0 after some failures.
    """
    from finetune.errors import INTERNAL_EXIT_CODE
    from finetune.sagemaker.failure import Failure

    if ending.signal == signal.SIGTERM and ending.stopped and said_success:
        return None  # the signal came after the finished job had removed its handler
    if ending.signal:
        name = signal.Signals(ending.signal).name
        return Failure(f"The job's process was ended by {name}{HINTS.get(ending.signal, '')}.", ending.exit_code, True)
    if ending.exit_code:
        return Failure(f"The job ended with exit code {ending.exit_code}; its log says why.", ending.exit_code, True)
    if ending.stopped or said_success:
        return None
    return Failure("The job ended without an error, but never reported success.", INTERNAL_EXIT_CODE, True)


if __name__ == "__main__":
    sys.exit(main())
