"""Kills a job repeatedly and checks its final output."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.moments import draw_late_moment, draw_moment
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import StartResult, Zygote, start, with_changes

WORKERS = (0, 1, 3)
MAX_UNDISTURBED = 30


def assert_kills_change_nothing(zygote: Zygote, job: TrainingJob, folder: Path, rng: random.Random, kills: int) -> None:
    """Run a job once uninterrupted and once with `kills` kills; both give the same bits and log the same lines."""
    uninterrupted = start(zygote, replace(job, storage=Storage(folder / "reference")), folder / "whole")
    assert uninterrupted.exit_code == 0, uninterrupted.log
    expected = uninterrupted.epoch_lines()
    assert len(expected) == int(job.request.hyperparameters["epochs"])
    expected_output = read_output(uninterrupted.folder)
    assert len(expected_output.metrics["findings"]) >= 2  # rules without findings would prove nothing

    printed = set()
    for result in kill_repeatedly(zygote, job, folder / "opt-ml", rng, kills):
        assert set(result.epoch_lines()) <= set(expected)
        printed |= set(result.epoch_lines())
    last = start(zygote, vary_job(job, rng, kills), folder / "opt-ml")
    assert last.exit_code == 0, last.log
    assert printed | set(last.epoch_lines()) == set(expected)
    assert_same_bits(read_output(last.folder), expected_output)


def kill_repeatedly(zygote: Zygote, job: TrainingJob, root: Path, rng: random.Random, kills: int) -> list[StartResult]:
    """Start the job until it was killed `kills` times; if it finishes too early, kill starts that find it finished."""
    results: list[StartResult] = []
    num_finished = 0
    while sum(result.disturbed for result in results) < kills:
        number = sum(result.disturbed for result in results)
        disturbance = draw_late_moment(rng, num_finished) if num_finished or number == kills - 1 else draw_moment(rng)
        result = start(zygote, vary_job(job, rng, len(results)), root, disturbance)
        results.append(result)
        sys.stdout.write(f"exit code {result.exit_code:2d}: {describe_progress(result)}; {disturbance.name}\n")
        assert result.disturbed or result.exit_code == 0, result.log
        num_finished += result.exit_code == 0
        assert num_finished <= MAX_UNDISTURBED
    return results


def describe_progress(result: StartResult) -> str:
    """A short description of how far a start got."""
    lines = [line for line in result.log.splitlines() if line.startswith(("Resumed", "epoch=", "Exported", "Done"))]
    return ", ".join(line.partition(";")[0].partition(" to ")[0] for line in lines) or "nothing yet"


def vary_job(job: TrainingJob, rng: random.Random, number: int) -> TrainingJob:
    """The job with other sync agent delays, and another number of batch worker threads."""
    delay = rng.choice((0.0, 0.01, 0.1))
    sync = replace(job.sync, seed=number, delay_seconds=(0.0, delay), mirror_deletions=rng.random() < 0.3)
    return with_changes(replace(job, sync=sync), workers=rng.choice(WORKERS))
