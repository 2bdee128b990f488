"""The failure that caused the others is the one that the job reports."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from finetune.launch.causes import first_failure
from finetune.launch.hangs import Hang
from finetune.launch.rank_files import RankFailure
from finetune.sagemaker.failure import Failure

DATA = Failure("a record cannot be read", 1, expected=True)
LOST = Failure("another process has ended", 2, expected=True)


def reported(rank: int, failure: Failure, time: float) -> RankFailure:
    return RankFailure(rank, failure, time, is_consequence=failure is LOST)


def ended(rank: int, exit_code: int, time: int, folder: Path) -> ProcessFailure:
    """How the launcher notes the end of a process."""
    failure = ProcessFailure(rank, 100 + rank, exit_code, str(folder / "absent"))
    failure.timestamp = time
    return failure


def test_cause_precedes_its_consequences(tmp_path: Path) -> None:
    failures = [reported(0, LOST, 10.1), reported(2, DATA, 10.2), reported(1, LOST, 10.3)]
    ends = {rank: ended(rank, 1, 10, tmp_path) for rank in range(3)}
    assert first_failure(failures, ends, {}, set()).failure is DATA


def test_process_killed_by_the_launcher_is_no_cause(tmp_path: Path) -> None:
    """SIGTERM at once, or SIGKILL 30 seconds later."""
    for exit_code, time in ((-signal.SIGTERM, 10), (-signal.SIGKILL, 40)):
        ends = {0: ended(0, 1, 10, tmp_path), 1: ended(1, exit_code, time, tmp_path)}
        assert first_failure([reported(0, DATA, 10.9)], ends, {}, set()).failure is DATA


def test_killed_process_is_the_cause_of_lost_connections(tmp_path: Path) -> None:
    ends = {0: ended(0, 2, 10, tmp_path), 1: ended(1, -signal.SIGKILL, 10, tmp_path)}
    failure = first_failure([reported(0, LOST, 10.2)], ends, {}, set()).failure
    assert failure.message.startswith("Process 1 was killed by SIGKILL, often because the machine ran out of memory")
    assert failure.exit_code == 2


def test_hung_process_is_named_with_what_was_seen(tmp_path: Path) -> None:
    ends = {0: ended(0, 2, 30, tmp_path), 1: ended(1, -signal.SIGKILL, 30, tmp_path)}
    failure = first_failure([reported(0, LOST, 30.2)], ends, {1: Hang(101, "was stopped")}, set()).failure
    assert failure.message == "Process 1 was stopped; it was killed."


def test_process_for_which_the_others_waited_in_vain_is_named(tmp_path: Path) -> None:
    ends = {0: ended(0, 2, 900, tmp_path), 1: ended(1, -signal.SIGKILL, 930, tmp_path)}
    failure = first_failure([reported(0, LOST, 900.2)], ends, {}, set()).failure
    assert failure.message == "Process 1 hung: the others waited for it, and it did not react to SIGTERM."


@pytest.mark.parametrize("reports", [[], [reported(0, LOST, 10.2)]])
def test_process_that_ended_too_early_is_named(reports: list[RankFailure], tmp_path: Path) -> None:
    ends = {failure.rank: ended(failure.rank, 2, 10, tmp_path) for failure in reports}
    failure = first_failure(reports, ends, {}, {1}).failure
    assert failure.message == "Process 1 ended with exit code 0 before it had done its part."
    assert failure.exit_code == 2


def test_end_without_a_message_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    failure = first_failure([], {1: ended(1, 7, 10, tmp_path)}, {}, set()).failure
    assert failure.message.startswith("Process 1 ended with exit code 7 and without a message")
    failure = first_failure([], {1: ended(1, -signal.SIGTERM, 10, tmp_path)}, {}, set()).failure
    assert failure.message == "Process 1 was killed by SIGTERM."
