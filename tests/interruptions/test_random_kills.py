"""A job that is killed at random moments, again and again, leaves the same bits as one that is not."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from interruptions.jobs import STRATEGIES, text_job, vision_job
from interruptions.moments import draw_late_moment, draw_moment
from interruptions.results import assert_same_bits, left_in, lines_of
from interruptions.starts import Ended, Zygote, start, with_changes
from sagemaker_simulator import Storage, TrainingJob, run_job

WORKERS = (0, 1, 3)
MOST_UNDISTURBED = 5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [vision_job, text_job], ids=["vision", "text"])
def test_the_same_bits(
    make: Callable[..., TrainingJob], strategy: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path
) -> None:
    # Long enough that most kills find it at work; the steps of the texts take a fraction of the pictures'.
    epochs = 4 + kills * (4 if make is text_job else 1)
    job = make(tmp_path / "job", strategy, epochs=str(epochs))
    uninterrupted = run_job(replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    assert uninterrupted.exit_code == 0, uninterrupted.log_text()
    expected = lines_of(uninterrupted.log)
    assert len(expected) == epochs

    draw = random.Random(f"{seed}/{make.__name__}/{strategy}")
    printed = set()
    for one in killed(zygote, job, tmp_path / "opt-ml", draw, kills):
        assert set(one.epoch_lines()) <= set(expected)
        printed |= set(one.epoch_lines())
    last = start(zygote, changed(job, draw, kills), tmp_path / "opt-ml")
    assert last.exit_code == 0, last.log
    assert printed | set(last.epoch_lines()) == set(expected)
    assert_same_bits(left_in(last.folder), left_in(uninterrupted.folder))


def killed(zygote: Zygote, job: TrainingJob, root: Path, draw: random.Random, kills: int) -> list[Ended]:
    """Start the job until it was killed so often; where it is done too early, kill starts that find it done."""
    ends: list[Ended] = []
    done = 0
    while sum(one.disturbed for one in ends) < kills:
        number = sum(one.disturbed for one in ends)
        disturbance = draw_late_moment(draw) if done or number == kills - 1 else draw_moment(draw)
        one = start(zygote, changed(job, draw, len(ends)), root, disturbance)
        ends.append(one)
        sys.stdout.write(f"exit code {one.exit_code:2d}: {reached(one)}; {disturbance.name}\n")
        assert one.disturbed or one.exit_code == 0, one.log
        done += one.exit_code == 0
        assert done <= MOST_UNDISTURBED
    return ends


def reached(one: Ended) -> str:
    """How far a start came, in a few words."""
    told = [line for line in one.log.splitlines() if line.startswith(("Resumed", "epoch=", "Exported", "Done"))]
    return ", ".join(line.partition(";")[0].partition(" to ")[0] for line in told) or "nothing yet"


def changed(job: TrainingJob, draw: random.Random, number: int) -> TrainingJob:
    """The job with other delays of the sync agent, and with another number of threads that prepare batches."""
    delay = draw.choice((0.0, 0.01, 0.1))
    sync = replace(job.sync, seed=number, delay_seconds=(0.0, delay), mirror_deletions=draw.random() < 0.3)
    return with_changes(replace(job, sync=sync), workers=draw.choice(WORKERS))


def test_a_seed_gives_the_same_moments() -> None:
    once, again = ([draw_moment(random.Random(f"7/{n}")).name for n in range(20)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 10
