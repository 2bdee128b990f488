"""A job with strategy auto gives the same bits after kills at every border, and in any number of processes."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import text_job
from tests.interruptions.moments import after_line
from tests.interruptions.results import JobOutput, assert_same_bits, read_output
from tests.interruptions.starts import Disturbance, Zygote, start
from tests.support.forked_ranks import train_in_ranks

pytestmark = pytest.mark.slow

ATTEMPTS = 5
AVERAGES = (
    "0.5 x solved head + 0.5 x last epoch",
    "0.25 x solved head + 0.75 x last epoch",
    "mean of the last 2 epochs",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    changes = {"virtual_devices": "2", "checkpoint_interval_steps": "1"}
    return text_job(tmp_path_factory.mktemp("job"), "auto", **changes)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, job: TrainingJob) -> JobOutput:
    """The output of the uninterrupted job in one process."""
    return read_output(train_in_ranks(zygote, job.request, tmp_path_factory.mktemp("whole") / "opt-ml", 1))


def test_the_job_crosses_every_border(expected: JobOutput) -> None:
    summary = expected.metrics["job"]
    assert (summary["strategy"], summary["epochs"]) == ("auto", 5)
    assert tuple(summary["averages"]) == AVERAGES
    assert summary["head_solver"]["separation"] is not None


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (after_line("solved;", 0.0), signal.SIGKILL),
        (after_line("epoch=5", 0.0), signal.SIGTERM),
        (after_line(AVERAGES[0], 0.0), signal.SIGKILL),
    ],
    ids=["the solved head", "the last epoch", "an average"],
)
def test_an_interrupted_job_has_the_same_bits(
    moment: Disturbance, number: signal.Signals, zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path
) -> None:
    for attempt in range(ATTEMPTS):
        storage = Storage(tmp_path / f"s3-{attempt}")
        result = start(zygote, replace(job, storage=storage), tmp_path / "opt-ml", replace(moment, signals=(number,)))
        if result.disturbed:
            break
    assert result.disturbed, f"too late {ATTEMPTS} times: {moment.name}"
    again = start(zygote, replace(job, storage=storage), tmp_path / "opt-ml")
    assert again.exit_code == 0, again.log
    assert_same_bits(read_output(again.folder), expected)


def test_processes_do_not_change_a_bit(zygote: Zygote, job: TrainingJob, expected: JobOutput, tmp_path: Path) -> None:
    assert_same_bits(read_output(train_in_ranks(zygote, job.request, tmp_path / "opt-ml", 2)), expected)
