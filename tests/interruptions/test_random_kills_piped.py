"""A Pipe mode job killed at random moments, also within an epoch, gives the same bits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from sagemaker_simulator import Channel, TrainingJob
from tests.interruptions.jobs import build_job
from tests.interruptions.kills import assert_kills_change_nothing
from tests.interruptions.starts import Zygote
from tests.support.pipes import IMAGE_STREAMS, NAMES, TEXT_STREAMS, rename_channel
from tests.support.tiny_transformers import write_folder

ANNOUNCED = {"num_training_samples": "60", "shuffle_buffer": "13"}
PICTURES = {
    **ANNOUNCED,
    "model_name": "mobilenet_v3_small",
    "image_size": "32",
    "augmentation": "strong",
    "class_names": ",".join(NAMES),
}
TEXTS = {**ANNOUNCED, "learning_rate": "0.002", "max_length": "16", "class_names": "bad,good"}
UNANNOUNCED = {"CSV"}
"""Formats for which every start finds classes and number of records in a first pass, with its own pipe."""
SPLIT = {"JSON Lines"}
"""Formats with records held out of the training stream, so that each evaluation uses one of its pipes."""


def piped_job(place: Path, form: str, strategy: str = "", **changes: str) -> TrainingJob:
    """A small job with all channels in Pipe mode."""
    write, asked = (IMAGE_STREAMS[form], PICTURES) if form in IMAGE_STREAMS else (TEXT_STREAMS[form], TEXTS)
    count = 20 if form in IMAGE_STREAMS else 60
    channels = [write(place / "train", count, 0)]
    if form not in SPLIT:
        channels.append(rename_channel(write(place / "validation", 8, 500), "validation"))
    if form in TEXT_STREAMS:
        channels.append(Channel("model", write_folder(place / "bert", "bert")))
    hidden = {"class_names", "num_training_samples"} if form in UNANNOUNCED else set[str]()
    wishes: Mapping[str, str] = {name: value for name, value in asked.items() if name not in hidden}
    usual = "from_scratch" if form in IMAGE_STREAMS else "full"
    return build_job(place, channels, wishes, strategy or usual, changes)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*IMAGE_STREAMS, *TEXT_STREAMS])
def test_killed_job_gives_same_bits(form: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path) -> None:
    # Text steps take a fraction of the time of image steps, and most kills should hit the job during training.
    epochs = 4 + kills * (4 if form in TEXT_STREAMS else 1)
    job = piped_job(tmp_path / "job", form, epochs=str(epochs))
    assert_kills_change_nothing(zygote, job, tmp_path, random.Random(f"{seed}/{form}"), kills)


@pytest.mark.slow
@pytest.mark.parametrize("form", TEXT_STREAMS)
def test_killed_job_with_cached_features_gives_same_bits(
    form: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path
) -> None:
    """A start that resumes the epoch has to recompute them."""
    job = piped_job(tmp_path / "job", form, "partial", epochs=str(4 + 4 * kills))
    assert_kills_change_nothing(zygote, job, tmp_path, random.Random(f"{seed}/{form}/partial"), kills)
