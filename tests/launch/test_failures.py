"""Failures of a host's processes end the job in time, leave no process, and are the cause that it reports."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagemaker_simulator import TrainingRequest
from tests.interruptions.jobs import text_job
from tests.interruptions.starts import Zygote
from tests.support.running_jobs import RunningJob, running_job, wait_until_gone

pytestmark = pytest.mark.slow

ENDLESS = {"epochs": "1000", "virtual_devices": "2", "processes_per_host": "2", "rules": "none"}


@pytest.fixture(scope="module")
def request_of_job(tmp_path_factory: pytest.TempPathFactory) -> TrainingRequest:
    """A job of two processes that trains until it is ended."""
    return text_job(tmp_path_factory.mktemp("job"), "full", **ENDLESS).request


@pytest.fixture
def job(zygote: Zygote, request_of_job: TrainingRequest, tmp_path: Path) -> Iterator[RunningJob]:
    """That job, in training."""
    with running_job(zygote, request_of_job, tmp_path) as running:
        running.wait_for_line("first batch trained")
        yield running


@pytest.mark.parametrize(
    ("number", "rank", "exit_code", "cause"),
    [
        (signal.SIGUSR1, 1, 3, "rank 1: Internal error, ZeroDivisionError: provoked by the test"),
        (signal.SIGUSR2, 0, 2, "rank 0: The machine ran out of memory"),
        (signal.SIGKILL, 1, 2, "Process 1 was killed by SIGKILL, often because the machine ran out of memory"),
        (signal.SIGHUP, 1, 2, "Process 1 ended with exit code 0 before it had done its part."),
        (signal.SIGSTOP, 1, 2, "Process 1 was stopped by a signal, such as SIGSTOP, 2[0-9] s ago; it was killed."),
    ],
)
def test_failure_of_one_process_is_the_cause(
    number: signal.Signals, rank: int, exit_code: int, cause: str, job: RunningJob
) -> None:
    job.send(number, rank)
    result = job.end()
    assert result.exit_code == exit_code, result.log
    assert re.match(cause, result.failure)
    assert re.search(f"ERROR: {cause}", result.log)


def test_endless_computation_of_one_process_is_the_cause(job: RunningJob) -> None:
    job.wait_for_line("epoch=2;")
    job.send(signal.SIGALRM, 1)
    result = job.end()
    assert result.exit_code == 2, result.log
    assert re.match(
        "Process 1 has computed a training step for [0-9]+ s without an end; it was killed.", result.failure
    )


def test_failure_during_a_stop_fails_the_job(job: RunningJob) -> None:
    job.send(signal.SIGTERM)
    job.send(signal.SIGKILL, 0)
    result = job.end()
    assert result.exit_code == 2, result.log
    assert result.failure.startswith("Process 0 was killed by SIGKILL")


def test_ranks_end_with_their_agent(job: RunningJob) -> None:
    ranks = job.ranks()
    assert len(ranks) == 2
    job.send(signal.SIGKILL)
    wait_until_gone(ranks.values())


def test_stop_before_the_processes_are_ready(zygote: Zygote, request_of_job: TrainingRequest, tmp_path: Path) -> None:
    with running_job(zygote, request_of_job, tmp_path) as job:
        job.wait_for_ranks(2)
        job.send(signal.SIGTERM)
        result = job.end()
    assert result.exit_code == 0, result.log
    assert not result.failure
    assert "Stopped before the first step" in result.log


def test_stop_in_training_saves_and_exports(job: RunningJob) -> None:
    job.send(signal.SIGTERM)
    job.send(signal.SIGTERM)
    result = job.end()
    assert result.exit_code == 0, result.log
    assert "Stopped on request; exported the partially trained model." in result.log
    assert (result.folder.model / "model.safetensors").exists()
    assert any(result.folder.checkpoints.glob("step-*/manifest.json"))


def test_refused_request_is_reported_once(zygote: Zygote, request_of_job: TrainingRequest, tmp_path: Path) -> None:
    """By all processes, at about the same time."""
    request = text_job(tmp_path / "job", "full", **ENDLESS, resume="required").request
    with running_job(zygote, request, tmp_path / "start") as job:
        result = job.end()
    assert result.exit_code == 1, result.log
    assert result.failure.startswith("resume=required, but there is no complete checkpoint")
    assert result.log.count("ERROR") == 1
