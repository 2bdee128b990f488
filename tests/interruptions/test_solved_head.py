"""A job that solves the head gives the same bits after kills and stops, and in any number of processes."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import text_job
from tests.interruptions.moments import after_line, at_artifact
from tests.interruptions.results import JobOutput, assert_same_bits, read_output
from tests.interruptions.starts import Disturbance, StartResult, Zygote, start
from tests.support.forked_ranks import Ranks, start_ranks, train_in_ranks

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0
"""Half of the platform's limit; on an idle machine a stop takes a fraction of a second."""
ATTEMPTS = 5
NOTHING_TO_EXPORT = "there is no model to export"
SOLVED = {"head_solver": "lbfgs", "rules": "None"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    return text_job(tmp_path_factory.mktemp("job"), "feature_extraction", **SOLVED)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, job: TrainingJob) -> JobOutput:
    """The output of the uninterrupted job in one process."""
    return read_output(train_in_ranks(zygote, job.request, tmp_path_factory.mktemp("whole") / "opt-ml", 1))


def interrupted(disturbance: Disturbance, zygote: Zygote, job: TrainingJob, root: Path) -> tuple[StartResult, Storage]:
    """Start the job until the disturbance comes before its end."""
    for attempt in range(ATTEMPTS):
        storage = Storage(root / f"s3-{attempt}")
        result = start(zygote, replace(job, storage=storage), root / "opt-ml", disturbance)
        if result.disturbed:
            return result, storage
    raise AssertionError(f"too late {ATTEMPTS} times: {disturbance.name}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])
@pytest.mark.parametrize(
    "moment",
    [after_line("Plan", 0.0), after_line("strength=", 0.0), after_line("strength=", 0.0, 4), after_line("solved", 0.0)],
    ids=["the pass", "the first strength", "a later strength", "the solved head"],
)
def test_an_interrupted_job_has_the_same_bits(
    moment: Disturbance, number: signal.Signals, zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path
) -> None:
    result, storage = interrupted(replace(moment, signals=(number,)), zygote, job, tmp_path)
    if number == signal.SIGTERM:
        assert result.exit_code == 0, result.log
        assert result.seconds_after_signal < PATIENCE_SECONDS
        if NOTHING_TO_EXPORT in result.log:
            assert not list(result.folder.model.iterdir())
            assert "solved the head" not in result.log
        else:
            assert "solved the head" in result.log
            assert (result.folder.model / "artifact.json").exists()
    again = start(zygote, replace(job, storage=storage), tmp_path / "opt-ml")
    assert again.exit_code == 0, again.log
    assert_same_bits(read_output(again.folder), expected)


def test_a_job_killed_in_the_export_does_not_solve_the_head_again(
    zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path
) -> None:
    _, storage = interrupted(replace(at_artifact(0.0), signals=(signal.SIGKILL,)), zygote, job, tmp_path)
    again = start(zygote, replace(job, storage=storage), tmp_path / "opt-ml")
    assert_same_bits(read_output(again.folder), expected)
    # The sync agent may not have uploaded the checkpoint before the machine was lost.
    assert ("Resumed from checkpoint" in again.log) != ("strength=" in again.log)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_do_not_change_a_bit(
    count: int, zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path
) -> None:
    folder = train_in_ranks(zygote, job.request, tmp_path / "opt-ml", count)
    assert_same_bits(read_output(folder), expected)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_of_one_process_stops_all(
    rank: int, zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path
) -> None:
    ranks = _stopped(rank, zygote, job, tmp_path)
    assert NOTHING_TO_EXPORT in ranks.text() or "solved the head" in ranks.text()
    assert_same_bits(read_output(train_in_ranks(zygote, job.request, tmp_path / "opt-ml", 2)), expected)


def _stopped(rank: int, zygote: Zygote, job: TrainingJob, tmp_path: Path) -> Ranks:
    """Stop one of two processes during the solve."""
    for _ in range(ATTEMPTS):
        ranks = start_ranks(zygote, job.request, tmp_path / "opt-ml", 2)
        if ranks.wait_for(lambda: "\nstrength=" in ranks.text() and ranks.handle_sigterm({rank})):  # noqa: B023
            ranks.send(signal.SIGTERM, {rank})
            assert ranks.end() == [0, 0], ranks.text()
            return ranks
        ranks.end()
    raise AssertionError("the job always ended before the signal")
