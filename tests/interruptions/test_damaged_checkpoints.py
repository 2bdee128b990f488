"""Damaging a checkpoint between two starts costs the steps since the previous one and does not change the result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import text_job
from tests.interruptions.moments import after_uploads
from tests.interruptions.results import JobOutput, assert_same_bits, read_output
from tests.interruptions.starts import Zygote, start


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingJob, JobOutput]:
    """A job, and its output without damage."""
    folder = tmp_path_factory.mktemp("whole")
    job = text_job(folder / "job", "gradual", epochs="30")
    job = replace(job, sync=replace(job.sync, delay_seconds=(0.0, 0.0)))
    result = start(zygote, replace(job, storage=Storage(folder / "reference")), folder / "whole")
    assert result.exit_code == 0, result.log
    return job, read_output(result.folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, flip, delete, empty])
def test_damaged_checkpoint_falls_back_to_previous(
    damage: Callable[[Path, random.Random], None],
    reference: tuple[TrainingJob, JobOutput],
    zygote: Zygote,
    seed: str,
    tmp_path: Path,
) -> None:
    rng = random.Random(f"{seed}/{damage.__name__}")
    job, expected = replace(reference[0], storage=Storage(tmp_path / "s3")), reference[1]
    skipped = 0
    for _ in range(2):
        killed = start(zygote, job, tmp_path / "opt-ml", after_uploads(2))
        assert killed.disturbed, killed.log
        skipped += killed.log.count("Skipping checkpoint")
        newest = max(job.storage.checkpoints.glob("step-*/manifest.json"), key=lambda path: path.parent.name[-6:])
        damaged = rng.choice(sorted(newest.parent.iterdir()))
        damage(damaged, rng)
    resumed = start(zygote, job, tmp_path / "opt-ml")
    assert resumed.exit_code == 0, resumed.log
    assert skipped + resumed.log.count("Skipping checkpoint") >= 1
    assert_same_bits(read_output(resumed.folder), expected)


def test_invalid_checkpoint_is_ignored(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    checkpoint = job.storage.checkpoints / "step-000000004-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("[1, 2", "utf-8")
    (job.storage.checkpoints / "account.json").write_text('{"starts": Infinity, "last_step": [3]}', "utf-8")
    result = start(zygote, job, tmp_path / "opt-ml")
    assert result.exit_code == 0, result.log
    assert "Skipping checkpoint step-000000004-000001: manifest is not JSON" in result.log
    assert len(result.epoch_lines()) == 4
