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
from tests.interruptions.results import Left, assert_same_bits, left_in
from tests.interruptions.starts import Zygote, start


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingJob, Left]:
    """A job, and its output without damage."""
    place = tmp_path_factory.mktemp("whole")
    job = text_job(place / "job", "gradual", epochs="30")
    job = replace(job, sync=replace(job.sync, delay_seconds=(0.0, 0.0)))
    ended = start(zygote, replace(job, storage=Storage(place / "reference")), place / "whole")
    assert ended.exit_code == 0, ended.log
    return job, left_in(ended.folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, flip, delete, empty])
def test_damaged_checkpoint_falls_back_to_previous(
    damage: Callable[[Path, random.Random], None],
    whole: tuple[TrainingJob, Left],
    zygote: Zygote,
    seed: str,
    tmp_path: Path,
) -> None:
    draw = random.Random(f"{seed}/{damage.__name__}")
    job, left = replace(whole[0], storage=Storage(tmp_path / "s3")), whole[1]
    skipped = 0
    for _ in range(2):
        killed = start(zygote, job, tmp_path / "opt-ml", after_uploads(2))
        assert killed.disturbed, killed.log
        skipped += killed.log.count("Skipping checkpoint")
        newest = max(job.storage.checkpoints.glob("step-*/manifest.json"), key=lambda path: path.parent.name[-6:])
        damaged = draw.choice(sorted(newest.parent.iterdir()))
        damage(damaged, draw)
    rest = start(zygote, job, tmp_path / "opt-ml")
    assert rest.exit_code == 0, rest.log
    assert skipped + rest.log.count("Skipping checkpoint") >= 1
    assert_same_bits(left_in(rest.folder), left)


def test_invalid_checkpoint_is_ignored(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    rubbish = job.storage.checkpoints / "step-000000004-000001"
    rubbish.mkdir(parents=True)
    (rubbish / "manifest.json").write_text("[1, 2", "utf-8")
    (job.storage.checkpoints / "account.json").write_text('{"starts": Infinity, "last_step": [3]}', "utf-8")
    ended = start(zygote, job, tmp_path / "opt-ml")
    assert ended.exit_code == 0, ended.log
    assert "Skipping checkpoint step-000000004-000001: manifest is not JSON" in ended.log
    assert len(ended.epoch_lines()) == 4
