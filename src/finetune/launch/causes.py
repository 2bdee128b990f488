"""Finds the cause of a job's failure among the failures and ends of its processes."""

from __future__ import annotations

import signal
import time
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
) -> RankFailure:
    """Return the failure that caused the others.

    Args:
        reported: Failures that the processes have written.
        ended: By rank, how processes ended that did not succeed.
        hung: By rank, the processes that were killed because they hung.
        unfinished: Ranks of the processes that ended with 0, but have not done their part of the job.
    """
    silent = {rank: end for rank, end in ended.items() if rank not in {failure.rank for failure in reported}}
    killed = {rank: end for rank, end in silent.items() if end.exitcode < 0 and end.exitcode != -signal.SIGTERM}
    first_report = min((failure.time for failure in reported), default=float("inf"))
    unresponsive = {rank for rank, end in killed.items() if end.timestamp > first_report + _LAUNCHER_SECONDS}
    first_killed = min(killed.keys() - unresponsive, key=lambda rank: killed[rank].timestamp, default=None)
    causes = [failure for failure in reported if not failure.is_consequence]
    first_cause = min(causes, key=lambda failure: failure.time, default=None)
    # The launcher notes times in whole seconds.
    if first_cause is not None and (first_killed is None or int(first_cause.time) <= killed[first_killed].timestamp):
        return first_cause
    if hung:
        rank, hang = min(hung.items())
        return _platform_failure(rank, f"{hang.reason}; it was killed.")
    if first_killed is not None:
        return _platform_failure(first_killed, _describe_kill(killed[first_killed]), killed[first_killed].timestamp)
    if unfinished:
        return _platform_failure(min(unfinished), "ended with exit code 0 before it had done its part.")
    if unresponsive:
        return _platform_failure(
            min(unresponsive), "hung: the others waited for it, and it did not react to SIGTERM.", first_report
        )
    return min(reported, key=lambda failure: failure.time, default=None) or _silent_end(ended)


def _silent_end(ended: Mapping[int, ProcessFailure]) -> RankFailure:
    rank, end = next(iter(ended.items()))
    if end.exitcode < 0:
        return _platform_failure(rank, _describe_kill(end), end.timestamp)
    message = f"ended with exit code {end.exitcode} and without a message: see its last lines in the log."
    return _platform_failure(rank, message, end.timestamp, expected=False)


def _platform_failure(rank: int, predicate: str, seconds: float | None = None, *, expected: bool = True) -> RankFailure:
    """Return the failure of a process at a time in seconds since the epoch, by default now."""
    failure = Failure(f"Process {rank} {predicate}", PlatformError.exit_code, expected)
    noted = time.time() if seconds is None else seconds
    return RankFailure(rank, failure, noted, is_consequence=False, names_process=True)


def _describe_kill(process: ProcessFailure) -> str:
    name = signal.Signals(-process.exitcode).name
    reason = f"was killed by {name}"
    if name == "SIGKILL":
        reason += ", often because the machine ran out of memory: use a smaller batch_size or a larger instance"
    return f"{reason}."
