"""A job killed repeatedly at random moments gives the same bits as an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sagemaker_simulator import TrainingJob
from tests.interruptions.jobs import STRATEGIES, text_job, vision_job
from tests.interruptions.kills import assert_kills_change_nothing
from tests.interruptions.moments import draw_moment
from tests.interruptions.starts import Zygote


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [vision_job, text_job], ids=["vision", "text"])
def test_killed_job_gives_same_bits(
    make: Callable[..., TrainingJob], strategy: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path
) -> None:
    # Long enough for most kills to hit it during training; text steps take a fraction of the time of image steps.
    epochs = 4 + kills * (4 if make is text_job else 1)
    job = make(tmp_path / "job", strategy, epochs=str(epochs))
    rng = random.Random(f"{seed}/{make.__name__}/{strategy}")
    assert_kills_change_nothing(zygote, job, tmp_path, rng, kills)


def test_seed_determines_disturbances() -> None:
    once, again = ([draw_moment(random.Random(f"7/{n}")).name for n in range(20)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 10
