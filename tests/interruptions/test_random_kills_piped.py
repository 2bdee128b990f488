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
IMAGES = {
    **ANNOUNCED,
    "model_name": "mobilenet_v3_small",
    "image_size": "32",
    "precision": "fp32",
    "augmentation": "strong",
    "class_names": ",".join(NAMES),
}
TEXTS = {**ANNOUNCED, "learning_rate": "0.002", "max_length": "16", "class_names": "bad,good"}
UNANNOUNCED = {"CSV"}
"""Formats for which every start finds classes and number of records in a first pass, with its own pipe."""
SPLIT = {"JSON Lines"}
"""Formats with records held out of the training stream, so that each evaluation uses one of its pipes."""


def piped_job(folder: Path, kind: str, strategy: str = "", **changes: str) -> TrainingJob:
    """A small job with all channels in Pipe mode."""
    write, template = (IMAGE_STREAMS[kind], IMAGES) if kind in IMAGE_STREAMS else (TEXT_STREAMS[kind], TEXTS)
    count = 20 if kind in IMAGE_STREAMS else 60
    channels = [write(folder / "train", count, 0)]
    if kind not in SPLIT:
        channels.append(rename_channel(write(folder / "validation", 8, 500), "validation"))
    if kind in TEXT_STREAMS:
        channels.append(Channel("model", write_folder(folder / "bert", "bert")))
    hidden = {"class_names", "num_training_samples"} if kind in UNANNOUNCED else set[str]()
    hyperparameters: Mapping[str, str] = {name: value for name, value in template.items() if name not in hidden}
    default_strategy = "from_scratch" if kind in IMAGE_STREAMS else "full"
    return build_job(folder, channels, hyperparameters, strategy or default_strategy, changes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGE_STREAMS, *TEXT_STREAMS])
def test_killed_job_gives_same_bits(kind: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path) -> None:
    # Text steps take a fraction of the time of image steps, and most kills should hit the job during training.
    epochs = 4 + kills * (4 if kind in TEXT_STREAMS else 1)
    job = piped_job(tmp_path / "job", kind, epochs=str(epochs))
    assert_kills_change_nothing(zygote, job, tmp_path, random.Random(f"{seed}/{kind}"), kills)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXT_STREAMS)
def test_killed_job_with_cached_features_gives_same_bits(
    kind: str, zygote: Zygote, seed: str, kills: int, tmp_path: Path
) -> None:
    """A start that resumes the epoch has to recompute them."""
    job = piped_job(tmp_path / "job", kind, "partial", epochs=str(4 + 4 * kills))
    assert_kills_change_nothing(zygote, job, tmp_path, random.Random(f"{seed}/{kind}/partial"), kills)
