"""Odd but ordinary data is either learned from or rejected with the cause, never an internal error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.evaluation.predict import InferenceContext, Predictions, predict
from finetune.job import export_check
from finetune.job.data.loaders import PROBE_RECORDS
from finetune.models.backbone import Backbone
from finetune.tasks.task import Task
from finetune.training.inputs import Source
from tests.support.coloured_images import COLORS, write_images
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

HEAD = {"strategy": "feature_extraction", "epochs": "1", "validation_fraction": "0"}
TEXTS = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "4", "max_length": "16"}


def lines(workdir: Path, *rows: object) -> Path:
    workdir.mkdir(parents=True)
    (workdir / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return workdir


def pairs(workdir: Path, count: int, **more: str) -> Path:
    rows = ({"text": f"cat {number}", "label": ("no", "yes")[number % 2], **more} for number in range(count))
    return lines(workdir, *rows)


def texts(workdir: Path, channels: dict[str, Path], **options: str) -> FinishedJob:
    return run_training(
        workdir / "job", {"model": write_folder(workdir / "bert", "bert"), **channels}, {**TEXTS, **options}
    )


def damage(folder: Path, count: int) -> None:
    """Make the first `count` images unreadable, in channel order."""
    for path in sorted(folder.rglob("*.png"))[:count]:
        path.write_bytes(b"no picture")


def test_job_without_readable_records_fails(tmp_path: Path, artifact: Path) -> None:
    images = write_images(tmp_path / "pictures", 3)
    damage(images, 9)
    job = run_training(tmp_path / "job", {"train": images, "model": artifact}, {**HEAD, "max_bad_records": "99"})
    assert job.exit_code == 1
    assert "epoch 1: no training record can be read" in job.failure


def test_export_is_checked_with_readable_records(tmp_path: Path, artifact: Path) -> None:
    images = write_images(tmp_path / "pictures", PROBE_RECORDS + 2)
    damage(images, PROBE_RECORDS + 1)
    job = succeeded(
        run_training(tmp_path / "job", {"train": images, "model": artifact}, {**HEAD, "max_bad_records": "9"})
    )
    assert f"repeats {PROBE_RECORDS} predictions" in job.log


def test_predictions_that_are_not_finite_fail_the_export_check(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backbone: Backbone, source: Source, how: InferenceContext, task: Task) -> Predictions | None:
        predictions = predict(backbone, source, how, task)
        return predictions and replace(predictions, probabilities=np.full_like(predictions.probabilities, np.nan))

    monkeypatch.setattr(export_check, "predict", broken)
    job = run_training(tmp_path / "job", {"train": holdout, "model": artifact}, HEAD)
    assert job.exit_code == 1
    assert "outputs of the model are not finite" in job.failure
    assert not (job.folder.model / "artifact.json").exists()


@pytest.mark.parametrize("size", ["16", "32"])
def test_small_images_give_repeatable_results(tmp_path: Path, holdout: Path, size: str) -> None:
    options = {
        "model_name": "resnet18",
        "strategy": "from_scratch",
        "epochs": "1",
        "image_size": size,
        "batch_size": "8",
    }
    first, second = (
        succeeded(run_training(tmp_path / name, {"train": holdout}, options)) for name in ("first", "second")
    )
    assert first.weights() == second.weights()


def test_class_names_apply_to_evaluated_models(tmp_path: Path, artifact: Path) -> None:
    numbered = write_images(tmp_path / "numbered", 3, first=300)
    labels = json.loads((artifact / "artifact.json").read_text("utf-8"))["labels"]
    for number, name in enumerate(labels):
        (numbered / name).rename(numbered / str(number))
    options = {"strategy": "evaluate", "class_names": ",".join(labels)}
    job = succeeded(run_training(tmp_path / "job", {"test": numbered, "model": artifact}, options))
    assert job.metrics()["test"]["accuracy"] > 0.9
    assert job.artifact()["labels"] == list(COLORS)


def test_evaluated_model_keeps_length_and_thresholds(tmp_path: Path) -> None:
    table = pairs(tmp_path / "table", 40)
    options = {**TEXTS, "target_recall": "0.9"}
    first = succeeded(texts(tmp_path / "first", {"train": table}, **options))
    second_job = succeeded(
        run_training(tmp_path / "again", {"test": table, "model": first.folder.model}, {"strategy": "evaluate"})
    )
    for name in ("thresholds", "preprocessing"):
        assert second_job.artifact()[name] == first.artifact()[name]
    assert first.artifact()["preprocessing"]["max_length"] == 16


def test_channels_must_have_the_same_number_of_texts(tmp_path: Path) -> None:
    channels = {
        "train": pairs(tmp_path / "train", 12, text_pair="mat"),
        "validation": pairs(tmp_path / "validation", 6),
    }
    job = texts(tmp_path, channels)
    assert job.exit_code == 1
    assert "'train' has 2, 'validation' has 1" in job.failure


def test_label_column_is_not_used_as_text(tmp_path: Path) -> None:
    job = texts(tmp_path, {"train": pairs(tmp_path / "train", 12)}, text_pair_column="label")
    assert job.exit_code == 1
    assert "label" in job.failure


def test_missing_column_in_one_object_is_allowed(tmp_path: Path) -> None:
    rows = [{"text": f"cat {number}", "label": ("no", "yes")[number % 2]} for number in range(12)]
    table = lines(tmp_path / "table", {"id": "7"}, *rows)
    job = succeeded(texts(tmp_path, {"train": table}, max_bad_records="1"))
    assert job.artifact()["labels"] == ["no", "yes"]


def test_label_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    table = lines(tmp_path / "table", *({"text": "cat", "label": f"{label}\ud800"} for label in "abab"))
    job = texts(tmp_path, {"train": table})
    assert job.exit_code == 1
    assert "the label holds half of a surrogate pair" in job.failure


def test_model_name_may_be_an_artifact_folder(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "evaluate", "model_name": str(artifact)}
    assert "resnet18" in succeeded(run_training(tmp_path / "job", {"test": holdout}, options)).log
