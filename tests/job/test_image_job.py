"""Outputs and log of a whole image job."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.support.coloured_images import COLORS, write_images
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

CLASSES = list(COLORS)


def test_train_writes_artifact_and_outputs(first_job: FinishedJob) -> None:
    succeeded(first_job)
    assert first_job.archive is not None
    with tarfile.open(first_job.archive) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {"model.safetensors", "artifact.json", "metrics.json", "code/inference.py"} <= names
    artifact = first_job.artifact()
    assert artifact["labels"] == CLASSES
    assert (artifact["framework"], artifact["architecture"]) == ("torchvision", "resnet18")
    assert artifact["preprocessing"]["size"] == 32
    metrics = first_job.metrics()
    assert metrics == json.loads((first_job.folder.model / "metrics.json").read_text())
    assert {path.name for path in first_job.folder.output_data.iterdir()} == {
        "metrics.json",
        "report.html",
        "report.json",
        "validation_predictions.csv",
    }


def test_metrics_agree_with_predictions_and_log(first_job: FinishedJob) -> None:
    metrics = first_job.metrics()
    rows = first_job.predictions()
    assert len(rows) == metrics["validation"]["records"] == 24
    right = sum(row["label"] == row["predicted_label"] for row in rows)
    assert metrics["validation"]["accuracy"] == pytest.approx(right / 24)
    assert metrics["validation"]["accuracy"] > 0.9
    for row in rows:
        probabilities = {name: float(row[f"probability:{name}"]) for name in CLASSES}
        assert max(probabilities, key=lambda name: probabilities[name]) == row["predicted_label"]
        assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert first_job.accuracies()[-1] == pytest.approx(metrics["validation"]["accuracy"], abs=1e-6)
    history = [row["validation:accuracy"] for row in metrics["job"]["history"]]
    assert first_job.accuracies() == pytest.approx(history, abs=1e-6)
    matrix = metrics["validation"]["confusion_matrix"]
    assert sum(map(sum, matrix)) == 24
    assert sum(matrix[number][number] for number in range(3)) == right


def test_plan_is_logged_before_first_metric_line(first_job: FinishedJob) -> None:
    plan, _, rest = first_job.log.partition("epoch=1;")
    assert rest
    for text in (
        "records   train 72, validation 24",
        "classes   3: blue 24, green 24, red 24",
        "model     resnet18, images of 32 x 32",
        "weights   random, new head",
        "learning rate 0.001",
        "steps     27: 3 epochs of 9, 8 records each",
    ):
        assert text in plan


@pytest.mark.parametrize(
    ("strategy", "learning"), [("feature_extraction", 0.00014), ("partial", 0.75), ("full", 1.0), ("gradual", 1.0)]
)
def test_strategy_adapts_model_of_earlier_job(
    strategy: str, learning: float, tmp_path: Path, holdout: Path, artifact: Path
) -> None:
    options = {"strategy": strategy, "epochs": "2"}
    job = succeeded(run_training(tmp_path, {"train": holdout, "validation": holdout, "model": artifact}, options))
    text = job.metrics()["job"]
    assert text["kept_head"]
    assert text["trainable_parameters"] / text["parameters"] == pytest.approx(learning, rel=0.1)
    assert job.metrics()["validation"]["accuracy"] > 0.9
    before, after = load((artifact / "model.safetensors").read_bytes()), load(job.weights())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "fc.weight" in changed
    assert ("layer4.1.conv2.weight" in changed) == (strategy != "feature_extraction")
    assert ("conv1.weight" in changed) == (strategy in {"full", "gradual"})
    assert ("bn1.running_mean" in changed) == (strategy in {"full", "gradual"})


def test_other_classes_get_a_new_head(tmp_path: Path, artifact: Path) -> None:
    write_images(tmp_path / "two", 12, names=("green", "red"))
    archive = {"train": tmp_path / "two", "model": artifact}
    job = succeeded(run_training(tmp_path / "job", archive, {"strategy": "feature_extraction", "epochs": "4"}))
    assert not job.metrics()["job"]["kept_head"]
    assert job.artifact()["labels"] == ["green", "red"]
    assert load(job.weights())["fc.weight"].shape[0] == 2
    assert "new head" in job.log


def test_archive_and_unpacked_model_are_equivalent(
    tmp_path: Path, holdout: Path, first_job: FinishedJob, artifact: Path
) -> None:
    assert first_job.archive is not None
    options = {"strategy": "feature_extraction", "epochs": "1"}
    # The whole output folder of a job as on S3: model.tar.gz next to output.tar.gz.
    packed = succeeded(run_training(tmp_path / "a", {"train": holdout, "model": first_job.archive.parent}, options))
    unpacked = succeeded(run_training(tmp_path / "b", {"train": holdout, "model": artifact}, options))
    assert packed.weights() == unpacked.weights()
    assert "model.tar.gz of the model channel (artifact of an earlier job)" in packed.log


def test_plan_warns_about_missing_checkpoint_folder(first_job: FinishedJob) -> None:
    line = next(line for line in first_job.log.splitlines() if line.startswith("  resume "))
    assert "no checkpoint folder" in line
    assert "spot capacity, the job starts from the beginning" in line
