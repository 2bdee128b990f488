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

HANDLED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
JOB = ("-P", "-m", "container.job")
HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
"""Environment variable for memory in pages of 2 MiB, if the kernel provides them on request. It is read only at the
start of a process (docs/decisions/performance.md)."""
HINTS: dict[int, str] = {
    signal.SIGKILL: ", usually because memory ran out; use a smaller batch_size or a larger instance",
    signal.SIGTERM: " without a handler for it",
}


@dataclass(frozen=True, slots=True)
class ExitStatus:
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
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    from finetune.sagemaker.paths import Paths

    paths = Paths.from_environment()
    success = paths.output / "success"
    for stale_file in (success, paths.failure):
        with suppress(OSError):
            stale_file.unlink()
    status = run((sys.executable, *JOB))
    failure = failure_from_status(status, has_success_file=_exists(success))
    if failure is None:
        return 0
    from finetune.sagemaker.failure import write_failure  # a late import does not delay the start of the job

    if not _exists(paths.failure):
        sys.stderr.write(f"{failure.message}\n")
    write_failure(paths, failure)
    return failure.exit_code


def _exists(file: Path) -> bool:
    """Whether a file exists; `False` if its folder is not accessible."""
    try:
        return file.exists()
    except OSError:
        return False


def run(command: tuple[str, ...]) -> ExitStatus:
    """Run a command until it ends; send it SIGTERM when this process receives SIGTERM.

    The command gets its own session, so that an interrupt from a terminal reaches it only once, forwarded by this
    process as SIGTERM, the platform's signal. All other children that end in the meantime are reaped.

    Args:
        command: absolute path of the program, and its arguments. `WATCHED` must be blocked; SIGTERM stays blocked in
            the command, until it has installed a handler and unblocks it.
    """
    environment = dict([HUGE_PAGES]) | os.environ
    child = os.posix_spawn(command[0], command, environment, setsid=True, setsigmask={signal.SIGTERM})
    is_stopped = False
    while True:
        if signal.sigwait(HANDLED_SIGNALS) != signal.SIGCHLD:
            is_stopped = True
            os.kill(child, signal.SIGTERM)
            continue
        status = _reap(child)
        if status is not None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            return ExitStatus(128 + number if number else os.WEXITSTATUS(status), number, is_stopped)


def _reap(child: int) -> int | None:
    """Reap all children that have ended; return the wait status of `child` if it is among them."""
    child_status = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                child_status = status
            if not pid:
                break
    return child_status


def failure_from_status(status: ExitStatus, *, has_success_file: bool) -> Failure | None:
    """The failure implied by the exit status, for jobs that did not report one; `None` on success.

    Args:
        status: of the job's process.
        has_success_file: whether sagemaker-training wrote `output/success`. It also exits with 0 after some failures.
    """
    from finetune.errors import INTERNAL_EXIT_CODE
    from finetune.sagemaker.failure import Failure

    if status.signal == signal.SIGTERM and status.stopped and has_success_file:
        return None  # the signal came after the finished job had removed its handler
    if status.signal:
        name = signal.Signals(status.signal).name
        return Failure(
            f"The job's process was terminated by {name}{HINTS.get(status.signal, '')}.", status.exit_code, True
        )
    if status.exit_code:
        return Failure(
            f"The job ended with exit code {status.exit_code}; see the log for the cause.", status.exit_code, True
        )
    if status.stopped or has_success_file:
        return None
    return Failure("The job ended without an error but never reported success.", INTERNAL_EXIT_CODE, True)


if __name__ == "__main__":
    sys.exit(main())
