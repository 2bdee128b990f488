#!/opt/venv/bin/python -I
"""The image's `train`, the container's first process: passes the wish to stop on to the job, and tells its true end.

A first process has duties that sagemaker-training does not fulfil: signals that it has no handler for are lost, nobody
else reaps what orphans leave behind, and its exit code is all that the platform asks about success. So the job runs in
a process of its own (`container.job`), and this one only waits.
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
"""A variable, which only a process that starts with it heeds: its memory comes in pages of 2 MiB, where the kernel has
them for who asks (docs/decisions/performance.md)."""
HINTS: dict[int, str] = {
    signal.SIGKILL: ", most often because memory ran out: use a smaller batch_size or a larger instance",
    signal.SIGTERM: ", which it was not prepared for",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How the job's process ended.

    Attributes:
        exit_code: 128 and the number of the signal where one ended it.
        signal: that number, or 0.
        stopped: whether it had been asked to stop.
    """

    exit_code: int
    signal: int
    stopped: bool


def main() -> int:
    """Run the job of this container and return its exit code."""
    # Before anything else: blocked signals wait until they are asked for; others would be lost on a first process.
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
    from finetune.sagemaker.failure import write_failure  # not before the job: its start would wait for it

    if not _is_there(paths.failure):
        sys.stderr.write(f"{failure.message}\n")
    write_failure(paths, failure)
    return failure.exit_code


def _is_there(file: Path) -> bool:
    """Whether a file exists; not where its folder may not be looked into."""
    try:
        return file.exists()
    except OSError:
        return False


def run(command: tuple[str, ...]) -> Ending:
    """Run a command until it ends; ask it to stop by SIGTERM whenever this process is asked to.

    The command gets a session of its own, so that an interrupt from a terminal reaches it once, from here, and as the
    signal that it knows from the platform. All other children that end meanwhile are reaped.

    Args:
        command: absolute path of the program, and its arguments. `WATCHED` must be blocked; SIGTERM stays so in the
            command, until it has a handler for it and unblocks it.
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
    """Reap all children that have ended; the wait status of `child` if it is among them."""
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
    """What is wrong about how the job ended, in words for where it did not say so itself; `None` for a good end.

    Args:
        ending: of the job's process.
        said_success: whether sagemaker-training wrote `output/success`. It also ends with 0 after some failures.
    """
    from finetune.errors import INTERNAL_EXIT_CODE
    from finetune.sagemaker.failure import Failure

    if ending.signal == signal.SIGTERM and ending.stopped and said_success:
        return None  # the stop came after the job had put its handler down, when all was done
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
