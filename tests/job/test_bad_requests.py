"""What does a user get whose hyperparameters or channels cannot be used, and how soon?"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from coloured_pictures import write_pictures
from whole_jobs import train, train_here

FAULTS = {"epoch": "3", "batch_size": "0", "learning_rate": "fast", "strategy": "ful"}


def test_train_tells_all_faults_at_once_and_exits_with_1(tmp_path: Path, pictures: Path) -> None:
    job = train(tmp_path, {"train": pictures}, FAULTS)
    assert job.exit_code == 1
    first, *others = job.failure.splitlines()
    assert first == "Unknown hyperparameter 'epoch' (did you mean 'epochs'?): correct its name or leave it out."
    assert [line.partition(" ")[0] for line in others] == ["strategy='ful'", "batch_size='0'", "learning_rate='fast'"]
    assert len(job.failure) <= 1024
    assert "Traceback" not in job.failure
    assert not list(job.folder.model.iterdir())


@pytest.mark.parametrize(
    ("hyperparameters", "cause"),
    [
        ({"optimzer": "adam"}, r"Unknown hyperparameter 'optimzer' \(did you mean 'optimizer'\?\)"),
        ({"batch_size": "-1"}, r"batch_size='-1' is not allowed: give a whole number, at least 1"),
        ({"epochs": "many"}, r"epochs='many' is not allowed: give a whole number"),
        ({"strategy": "partial", "unfrozen_groups": "99"}, r"unfrozen_groups is 99, but .* Choose at most 5"),
        ({"model_name": "resnet81"}, r"model_name='resnet81'.*leave model_name away, or set it to 'resnet18'"),
        ({"image_size": "20000"}, r"image_size='20000' is not allowed: give a whole number, at least 8"),
        ({"reinitialize_top_layer": "false"}, r"reinitialize_top_layer=false, but the weights distinguish 3 classes"),
        ({"task": "text-classification"}, r"task=text-classification, but channel 'train' holds no tables"),
        ({"num_classes": "2"}, r"num_classes=2, but channel 'train' has 4 classes"),
        ({"resume": "required"}, r"resume=required, but"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_hyperparameter_that_cannot_be(
    hyperparameters: dict[str, str], cause: str, tmp_path: Path, network: Path
) -> None:
    data = write_pictures(tmp_path / "four-classes", 2)
    shutil.copytree(data / "red", data / "crimson")
    job = train_here(tmp_path / "job", {"train": data, "model": network}, hyperparameters)
    assert job.exit_code == 1
    assert re.match(cause, job.failure), job.failure
    assert len(job.failure) <= 1024


def test_more_faults_than_are_shown_are_counted(tmp_path: Path, pictures: Path) -> None:
    job = train_here(tmp_path, {"train": pictures}, {f"unknown_thing_{number}": "x" * 50 for number in range(100)})
    assert job.exit_code == 1
    assert len(job.failure) <= 1024
    assert re.search(r"\.\.\. and \d+ more faults\.$", job.failure)


def test_channels_that_are_missing_unknown_or_empty(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: tuple[tuple[dict[str, Path], str], ...] = (
        ({}, r"There is no channel 'train': give one"),
        ({"train": pictures, "validaton": pictures}, r"Unknown channel 'validaton' \(did you mean 'validation'\?\)"),
        ({"train": pictures, "training": pictures}, r"Channels 'train' and 'training' mean the same: give one of them"),
        ({"train": tmp_path / "empty"}, r"channel 'train' is empty: no files in .*; expected is a folder per class"),
        ({"train": pictures, "model": tmp_path / "empty"}, r"The model channel holds no model .*; it holds nothing"),
    )
    for number, (channels, cause) in enumerate(cases):
        job = train_here(tmp_path / str(number), channels)
        assert job.exit_code == 1
        assert re.match(cause, job.failure), job.failure
