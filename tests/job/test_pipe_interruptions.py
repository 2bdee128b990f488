"""Pipe mode jobs interrupted within an epoch give the same bits."""

from __future__ import annotations

import random
import secrets
import sys
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Channel,
    FeederOptions,
    Interruption,
    Moment,
    Storage,
    TrainingJob,
    run_job,
    run_with_interruptions,
)
from tests.support.pipes import NAMES, augmented_manifest, json_lines, piped_request, rename_channel
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import TRAIN

STEPS = {"epochs": "3", "batch_size": "4", "shuffle_buffer": "7", "checkpoint_interval_steps": "1"}
IMAGE_HYPERPARAMETERS = {
    **STEPS,
    "model_name": "resnet18",
    "strategy": "from_scratch",
    "image_size": "32",
    "class_names": ",".join(NAMES),
    "num_training_samples": "36",
}
TEXTS = {**STEPS, "class_names": "bad,good", "num_training_samples": "36", "max_length": "16"}


def run(workdir: Path, channels: tuple[Channel, ...], options: dict[str, str], *interruptions: Interruption) -> Path:
    job = TrainingJob(piped_request(channels, options, checkpoints=True), TRAIN, Storage(workdir / "s3"))
    results = run_with_interruptions(job, workdir / "opt-ml", interruptions)
    assert results[-1].exit_code == 0, results[-1].log_text()
    assert [result.status for result in results] == ["Interrupted"] * (len(results) - 1) + ["Completed"]
    return workdir / "opt-ml" / "model" / "model.safetensors"


def drawn() -> list[Interruption]:
    """One interruption of each kind, in random order at random moments of training; the seed is printed."""
    seed = secrets.randbelow(1 << 32)
    sys.stdout.write(f"interruptions drawn with seed {seed}\n")
    draw = random.Random(seed)
    moments = [Moment(draw.uniform(0.0, 1.0), r"^Plan|Resumed") for _ in range(2)]
    interruptions = [Interruption(moments[0], "kill"), Interruption(moments[1], "reclaim")]
    draw.shuffle(interruptions)
    return interruptions


@pytest.mark.slow
def test_killed_and_reclaimed_jobs_give_the_same_result(tmp_path: Path) -> None:
    """As in the image; `tests/interruptions` kills jobs of every format more often."""
    channels = (
        json_lines(tmp_path / "train", 36, 0),
        rename_channel(json_lines(tmp_path / "validation", 6, 100), "validation"),
        Channel("model", write_folder(tmp_path / "bert", "bert")),
    )
    undisturbed = run(tmp_path / "once", channels, TEXTS)
    disturbed = run(tmp_path / "often", channels, TEXTS, *drawn())
    assert disturbed.read_bytes() == undisturbed.read_bytes()


def test_stop_while_pipe_is_silent(tmp_path: Path) -> None:
    channel = augmented_manifest(tmp_path / "train", 4, 0)
    late = Channel(
        "train",
        channel.source,
        "link",
        channel.content_type,
        pipe=channel.pipe,
        feeder_options=FeederOptions(delay_seconds=600),
    )
    job = TrainingJob(piped_request((late,), IMAGE_HYPERPARAMETERS, checkpoints=True), TRAIN, Storage(tmp_path / "s3"))
    result = run_job(job, tmp_path / "opt-ml", Interruption(Moment(0.5, "^Plan"), "stop"))
    assert (result.status, result.exit_code) == ("Stopped", 0), result.log_text()
    assert "Stopped before the first step" in result.log_text()
    assert result.seconds_after_sigterm is not None
    assert result.seconds_after_sigterm < 30.0
