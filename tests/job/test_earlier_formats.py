"""Checkpoints and artifacts of earlier versions: `fixtures/earlier` holds those of 0.1.0, of a BERT with two layers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from sagemaker_simulator import lay_out
from tests.support.whole_jobs import FinishedJob, build_request, run_request, run_training, succeeded

EARLIER = Path(__file__).parent / "fixtures" / "earlier"


def test_checkpoint_of_earlier_version_is_resumed(tmp_path: Path) -> None:
    channels = {"train": EARLIER / "train", "model": EARLIER / "model"}
    hyperparameters = json.loads((EARLIER / "hyperparameters.json").read_text("utf-8"))
    folder = lay_out(tmp_path / "opt-ml", build_request(channels, hyperparameters))
    shutil.copytree(EARLIER / "checkpoints", folder.root / "checkpoints", dirs_exist_ok=True)
    job = succeeded(run_request(folder))
    assert "step-000000004-000003" in job.log
    assert "epoch=1;" not in job.log
    assert "epoch=4;" in job.log
    assert largest_difference(job, EARLIER / "predictions.csv", "validation") < 1e-4


def test_artifact_of_earlier_version_gives_same_predictions(tmp_path: Path) -> None:
    channels = {"test": EARLIER / "train", "model": EARLIER / "artifact"}
    job = succeeded(run_training(tmp_path, channels, {"strategy": "evaluate", "precision": "fp32", "max_length": "16"}))
    assert job.artifact()["labels"] == ["no", "yes"]
    assert largest_difference(job, EARLIER / "predictions.csv", "test") < 1e-4


def largest_difference(job: FinishedJob, earlier: Path, part: str) -> float:
    """The largest difference of a probability, over the records that an earlier job predicted."""
    with earlier.open(encoding="utf-8", newline="") as file:
        expected = {row["record"]: row for row in csv.DictReader(file)}
    rows = {row["record"]: row for row in job.predictions(part) if row["record"] in expected}
    assert rows.keys() == expected.keys() != set()
    columns = [name for name in next(iter(expected.values())) if name.startswith("probability:")]
    return max(abs(float(rows[key][name]) - float(expected[key][name])) for key in rows for name in columns)
