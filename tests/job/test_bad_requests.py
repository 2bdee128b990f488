"""Errors for unusable hyperparameters or channels, and how soon they come."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest

from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.coloured_images import write_images
from tests.support.pipes import piped_request
from tests.support.stream_writers import escaped_recordio
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import run_request, run_training, succeeded, train

FAULTS = {"epoch": "3", "batch_size": "0", "learning_rate": "fast", "strategy": "ful"}


def test_train_reports_all_faults_at_once_with_exit_code_1(tmp_path: Path, images: Path) -> None:
    job = train(tmp_path, {"train": images}, FAULTS)
    assert job.exit_code == 1
    first, *others = job.failure.splitlines()
    assert first == "Unknown hyperparameter 'epoch' (did you mean 'epochs'?): correct its name or remove it."
    assert [line.partition(" ")[0] for line in others] == ["strategy='ful'", "batch_size='0'", "learning_rate='fast'"]
    assert len(job.failure) <= 1024
    assert "Traceback" not in job.failure
    assert not list(job.folder.model.iterdir())


@pytest.mark.parametrize(
    ("hyperparameters", "cause"),
    [
        ({"optimzer": "adam"}, r"Unknown hyperparameter 'optimzer' \(did you mean 'optimizer'\?\)"),
        ({"batch_size": "-1"}, r"batch_size='-1' is not allowed: expected an integer, at least 1"),
        ({"epochs": "many"}, r"epochs='many' is not allowed: expected an integer"),
        ({"strategy": "partial", "unfrozen_groups": "99"}, r"unfrozen_groups is 99, but .* Choose at most 5"),
        ({"model_name": "resnet81"}, r"model_name='resnet81'.*omit model_name, or set it to 'resnet18'"),
        ({"image_size": "20000"}, r"image_size='20000' is not allowed: expected an integer, at least 8"),
        ({"reinitialize_top_layer": "false"}, r"reinitialize_top_layer=false, but the weights have 3 classes"),
        ({"task": "text-classification"}, r"task=text-classification, but channel 'train' contains no tables"),
        ({"num_classes": "2"}, r"num_classes=2, but channel 'train' has 4 classes"),
        ({"num_training_samples": "9"}, r"num_training_samples=9, but channel 'train' has 8 records"),
        ({"resume": "required"}, r"resume=required, but"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_impossible_hyperparameter_is_refused(
    hyperparameters: dict[str, str], cause: str, tmp_path: Path, artifact: Path
) -> None:
    data = write_images(tmp_path / "four-classes", 2)
    shutil.copytree(data / "red", data / "crimson")
    job = run_training(tmp_path / "job", {"train": data, "model": artifact}, hyperparameters)
    assert job.exit_code == 1
    assert re.match(cause, job.failure), job.failure
    assert len(job.failure) <= 1024


@pytest.mark.parametrize("source", ["folders", "lst", "csv", "recordio", "pipe"])
def test_num_classes_must_match_the_data(tmp_path: Path, artifact: Path, source: str) -> None:
    options = {"num_classes": "4", "strategy": "feature_extraction", "epochs": "1"}
    names = {"red": "0", "green": "1", "blue": "7"}
    data = write_images(tmp_path / "pictures", 4)
    channels = {"train": data, "model": artifact}
    if source == "folders":
        for name, number in names.items():
            (data / name).rename(data / number)
    elif source == "lst":
        lines = [f"{i}\t{names[f.parent.name]}\t{f.parent.name}/{f.name}" for i, f in enumerate(data.rglob("*.png"))]
        (tmp_path / "lst").mkdir()
        (tmp_path / "lst" / "train.lst").write_text("\n".join(lines))
        channels["train_lst"] = tmp_path / "lst"
    elif source == "csv":
        (tmp_path / "texts").mkdir()
        rows = "".join(f"{number},the text {i} of {number}\n" for i in range(4) for number in names.values())
        (tmp_path / "texts" / "texts.csv").write_text("label,text\n" + rows)
        channels = {"train": tmp_path / "texts", "model": write_folder(tmp_path / "bert", "bert")}
    else:
        records = [
            escaped_recordio(struct.pack("<IfQQ", 0, float(names[file.parent.name]), i, 0) + file.read_bytes())
            for i, file in enumerate(data.rglob("*.png"))
        ]
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "train.rec").write_bytes(b"".join(records))
        channels["train"] = tmp_path / "records"
    if source == "pipe":
        pipe = Channel("train", tmp_path / "records", content_type="application/x-recordio", pipe=PipeSource())
        request = piped_request((pipe, Channel("model", artifact)), options)
        folder = lay_out(tmp_path / "job", request)
        feeders = feed_pipes(folder, request)
        job = run_request(folder)
        for feeder in feeders:
            feeder.kill()
    else:
        job = run_training(tmp_path / "job", channels, options)
    assert job.exit_code == 1, job.log
    assert re.search("num_classes=4, but channel 'train' has 3 classes" if source != "pipe" else "7", job.failure)


def test_num_classes_must_match_the_evaluated_model(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"num_classes": "4", "strategy": "evaluate"}
    job = run_training(tmp_path / "job", {"test": holdout, "model": artifact}, options)
    assert job.exit_code == 1
    assert job.failure.startswith("num_classes=4, but the model to evaluate has 3 classes")


def test_class_names_without_records_are_a_warning(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"class_names": "blue,green,red,violet", "strategy": "feature_extraction", "epochs": "1"}
    job = succeeded(run_training(tmp_path / "job", {"train": holdout, "model": artifact}, options))
    assert job.artifact()["labels"] == ["blue", "green", "red", "violet"]
    assert "WARNING: channel 'train' has no records of 1 of 4 classes (violet)" in job.log


def test_further_faults_are_counted(tmp_path: Path, images: Path) -> None:
    job = run_training(tmp_path, {"train": images}, {f"unknown_thing_{number}": "x" * 50 for number in range(100)})
    assert job.exit_code == 1
    assert len(job.failure) <= 1024
    assert re.search(r"\.\.\. and \d+ more faults\.$", job.failure)


def test_missing_unknown_or_empty_channels_are_refused(tmp_path: Path, images: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: tuple[tuple[dict[str, Path], str], ...] = (
        ({}, r"There is no channel 'train': add it"),
        ({"train": images, "validaton": images}, r"Unknown channel 'validaton' \(did you mean 'validation'\?\)"),
        (
            {"train": images, "training": images},
            r"Channels 'train' and 'training' are the same channel: give only one of them",
        ),
        ({"train": tmp_path / "empty"}, r"channel 'train' is empty: no files in .*; expected a folder per class"),
        (
            {"train": images, "model": tmp_path / "empty"},
            r"The model channel contains no supported model; .* nothing",
        ),
    )
    for number, (channels, cause) in enumerate(cases):
        job = run_training(tmp_path / str(number), channels)
        assert job.exit_code == 1
        assert re.match(cause, job.failure), job.failure
