"""A job killed repeatedly at random moments gives the same bits as an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import STRATEGIES, text_job, vision_job
from tests.interruptions.kills import assert_kills_change_nothing, vary_job
from tests.interruptions.moments import after_line, draw_moment
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote, start

MAX_STARTS = 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "strategy"),
    # Text jobs with strategy auto are killed at its borders in test_auto_strategy.py.
    [*((vision_job, name) for name in STRATEGIES), *((text_job, name) for name in STRATEGIES if name != "auto")],
    ids=lambda value: value if isinstance(value, str) else value.__name__.removesuffix("_job"),
)
def test_killed_job_gives_same_bits(
    make: Callable[..., TrainingJob], strategy: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path
) -> None:
    # Long enough for most kills to hit it during training; text steps take a fraction of the time of image steps.
    epochs = 4 + kills * (4 if make is text_job else 1)
    job = make(tmp_path / "job", strategy, epochs=str(epochs))
    rng = random.Random(f"{seed}/{make.__name__}/{strategy}")
    assert_kills_change_nothing(zygote, job, tmp_path, rng, kills)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "learning_rate"), [(vision_job, "0.02"), (text_job, "0.02")], ids=["vision", "text"])
def test_job_killed_after_its_epochs_exports_the_same_best_epoch(
    make: Callable[..., TrainingJob], learning_rate: str, zygote: Zygote, seed: str, tmp_path: Path
) -> None:
    changes = {"best_metric": "loss", "learning_rate": learning_rate, "lr_schedule": "constant", "epochs": "8"}
    changes |= {"gradient_accumulation_steps": "1", "checkpoint_interval_steps": "1"}
    job = make(tmp_path / "job", "full", **changes)
    whole = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    assert whole.exit_code == 0, whole.log
    expected = read_output(whole.folder)
    losses = [row["validation:loss"] for row in expected.metrics["job"]["history"]]
    best = losses.index(min(losses)) + 1
    # Only then are the exported weights those kept in checkpoints.
    assert expected.metrics["job"]["exported_epoch"] == best < len(losses)
    assert f"Exported: epoch {best} of 8 by validation loss {min(losses):.4f}; epoch 8, the last, has" in whole.log

    rng = random.Random(f"{seed}/{make.__name__}/best")
    for number in range(MAX_STARTS):
        moment = after_line("epoch=", rng.uniform(0.0, 0.4), rng.randint(1, 3))
        result = start(zygote, vary_job(job, rng, number), tmp_path / "opt-ml", moment)
        if not result.disturbed:
            break
    assert result.exit_code == 0, result.log
    assert number >= 2
    assert_same_bits(read_output(result.folder), expected)


def test_seed_determines_disturbances() -> None:
    once, again = ([draw_moment(random.Random(f"7/{n}")).name for n in range(20)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 10
