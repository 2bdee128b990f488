"""A promised precision becomes a threshold that the artifact's handler applies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.export.handler import load_handler
from tests.support.coloured_images import COLORS, write_images
from tests.support.whole_jobs import run_training, succeeded


def test_handler_applies_validation_threshold(tmp_path: Path, artifact: Path) -> None:
    write_images(tmp_path / "train", 12, 0)
    third = list(COLORS)[2]
    for file in (tmp_path / "train" / third).iterdir():
        file.unlink()
    (tmp_path / "train" / third).rmdir()
    options = {"strategy": "feature_extraction", "epochs": "2", "batch_size": "8", "target_recall": "0.9"}
    job = succeeded(run_training(tmp_path, {"train": tmp_path / "train", "model": artifact}, options))
    limits = job.artifact()["thresholds"]
    assert sum(limits) == 1
    decision = job.metrics()["decision"]
    assert decision["target"] == "recall 0.9"
    row = job.metrics()["job"]["history"][job.metrics()["job"]["exported_epoch"] - 1]
    assert "highest validation precision at target_recall (the thresholds are chosen for recall 0.9;" in job.log
    labels = job.artifact()["labels"]
    assert decision["validation"][labels[1]]["precision"] == pytest.approx(row["validation:precision_at_target"])
    assert decision["validation"][labels[1]]["recall"] >= 0.9
    assert list(decision["thresholds"].values()) == limits
    rows = job.predictions()
    for row in rows:
        above = float(row[f"probability:{labels[1]}"]) > limits[1]
        assert row["predicted_label"] == labels[int(above)]
    path = job.folder.model / "artifact.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | {"thresholds": [0.0, 1.0]}), "utf-8")
    handler = load_handler(job.folder.model)
    model = handler.model_fn(str(job.folder.model))
    image = next((tmp_path / "train" / labels[1]).iterdir()).read_bytes()
    answer = handler.predict_fn(handler.input_fn(image, "application/x-image"), model)
    assert answer.records[0]["predicted_label"] == labels[0]


def test_impossible_target_is_refused(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    job = run_training(tmp_path, {"train": holdout, "model": artifact}, {"target_precision": "0.9"})
    assert job.exit_code == 1
    assert "target_precision needs two classes or multi_label=true, but there are 3 exclusive classes" in job.failure
