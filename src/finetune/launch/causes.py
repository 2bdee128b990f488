"""Finds the cause of a job's failure among the failures and ends of its processes."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from finetune.errors import PlatformError
from finetune.launch.hangs import Hang
from finetune.launch.rank_files import RankFailure
from finetune.sagemaker.failure import Failure

_LAUNCHER_SECONDS = 25.0
"""The launcher ends the other processes of a failed job by SIGTERM, and those that do not react by SIGKILL after 30
seconds. A process that was killed so much later than others failed did not react."""


def first_failure(
    reported: Sequence[RankFailure],
    ended: Mapping[int, ProcessFailure],
    hung: Mapping[int, Hang],
    unfinished: AbstractSet[int],
) -> Failure:
    """Return the failure that caused the others.

    Args:
        reported: Failures that the processes have written.
        ended: By rank, how processes ended that did not succeed.
        hung: By rank, the processes that were killed because they hung.
        unfinished: Ranks of the processes that ended with 0, but have not done their part of the job.
    """
    causes = [failure for failure in reported if not failure.is_consequence]
    silent = {rank: end for rank, end in ended.items() if rank not in {failure.rank for failure in reported}}
    killed = [end for end in silent.values() if end.exitcode < 0 and end.exitcode != -signal.SIGTERM]
    first_report = min((failure.time for failure in reported), default=float("inf"))
    unresponsive = [end for end in killed if end.timestamp > first_report + _LAUNCHER_SECONDS]
    first_killed = min((end for end in killed if end not in unresponsive), key=_time_of_end, default=None)
    if causes:
        first = min(causes, key=lambda failure: failure.time)
        # The launcher notes times in whole seconds.
        if first_killed is None or int(first.time) <= first_killed.timestamp:
            return first.failure
    if hung:
        rank, hang = min(hung.items())
        return _platform_failure(f"Process {rank} {hang.reason}; it was killed.")
    if first_killed is not None:
        return _platform_failure(_describe_kill(first_killed))
    if unfinished:
        return _platform_failure(f"Process {min(unfinished)} ended with exit code 0 before it had done its part.")
    if unresponsive:
        rank = unresponsive[0].local_rank
        return _platform_failure(f"Process {rank} hung: the others waited for it, and it did not react to SIGTERM.")
    if reported:
        return min(reported, key=lambda failure: failure.time).failure
    rank, process = next(iter(ended.items()))
    if process.exitcode < 0:
        return _platform_failure(_describe_kill(process))
    return Failure(
        f"Process {rank} ended with exit code {process.exitcode} and without a message: see its last lines in the log.",
        PlatformError.exit_code,
        expected=False,
    )


def _platform_failure(message: str) -> Failure:
    return Failure(message, PlatformError.exit_code, expected=True)


def _time_of_end(process: ProcessFailure) -> int:
    return process.timestamp


def _describe_kill(process: ProcessFailure) -> str:
    name = signal.Signals(-process.exitcode).name
    reason = f"Process {process.local_rank} was killed by {name}"
    if name == "SIGKILL":
        reason += ", often because the machine ran out of memory: use a smaller batch_size or a larger instance"
    return f"{reason}."
