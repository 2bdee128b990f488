"""Kills a job repeatedly and checks its final output."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.moments import draw_late_moment, draw_moment
from tests.interruptions.results import assert_same_bits, left_in
from tests.interruptions.starts import Ended, Zygote, start, with_changes

WORKERS = (0, 1, 3)
MOST_UNDISTURBED = 30


def assert_kills_change_nothing(zygote: Zygote, job: TrainingJob, place: Path, draw: random.Random, kills: int) -> None:
    """Run a job once uninterrupted and once with `kills` kills; both give the same bits and log the same lines."""
    uninterrupted = start(zygote, replace(job, storage=Storage(place / "reference")), place / "whole")
    assert uninterrupted.exit_code == 0, uninterrupted.log
    expected = uninterrupted.epoch_lines()
    assert len(expected) == int(job.request.hyperparameters["epochs"])
    left = left_in(uninterrupted.folder)
    assert len(left.metrics["findings"]) >= 2  # rules without findings would prove nothing

    printed = set()
    for one in killed(zygote, job, place / "opt-ml", draw, kills):
        assert set(one.epoch_lines()) <= set(expected)
        printed |= set(one.epoch_lines())
    last = start(zygote, changed(job, draw, kills), place / "opt-ml")
    assert last.exit_code == 0, last.log
    assert printed | set(last.epoch_lines()) == set(expected)
    assert_same_bits(left_in(last.folder), left)


def killed(zygote: Zygote, job: TrainingJob, root: Path, draw: random.Random, kills: int) -> list[Ended]:
    """Start the job until it was killed `kills` times; if it finishes too early, kill starts that find it finished."""
    ends: list[Ended] = []
    done = 0
    while sum(one.disturbed for one in ends) < kills:
        number = sum(one.disturbed for one in ends)
        disturbance = draw_late_moment(draw, done) if done or number == kills - 1 else draw_moment(draw)
        one = start(zygote, changed(job, draw, len(ends)), root, disturbance)
        ends.append(one)
        sys.stdout.write(f"exit code {one.exit_code:2d}: {reached(one)}; {disturbance.name}\n")
        assert one.disturbed or one.exit_code == 0, one.log
        done += one.exit_code == 0
        assert done <= MOST_UNDISTURBED
    return ends


def reached(one: Ended) -> str:
    """A short description of how far a start got."""
    told = [line for line in one.log.splitlines() if line.startswith(("Resumed", "epoch=", "Exported", "Done"))]
    return ", ".join(line.partition(";")[0].partition(" to ")[0] for line in told) or "nothing yet"


def changed(job: TrainingJob, draw: random.Random, number: int) -> TrainingJob:
    """The job with other sync agent delays, and another number of batch worker threads."""
    delay = draw.choice((0.0, 0.01, 0.1))
    sync = replace(job.sync, seed=number, delay_seconds=(0.0, delay), mirror_deletions=draw.random() < 0.3)
    return with_changes(replace(job, sync=sync), workers=draw.choice(WORKERS))
