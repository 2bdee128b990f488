"""Contents of the report of a whole job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.coloured_images import COLORS
from tests.support.whole_jobs import FinishedJob, run_training, succeeded


def report_of(job: FinishedJob) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    return loaded


def test_report_agrees_with_metrics_and_request(first_job: FinishedJob) -> None:
    report, metrics = report_of(first_job), first_job.metrics()
    assert report["parts"]["validation"] == metrics["validation"]
    assert report["history"] == metrics["job"]["history"]
    assert report["asked"]["hyperparameters"]["epochs"] == "3"
    assert report["asked"]["effective"]["batch_size"] == 8
    assert report["records"] == {"train": 72, "validation": 24}
    assert report["classes"]["train"] == dict.fromkeys(COLORS, 24)
    assert report["wrong"]["count"] == 24 - sum(metrics["validation"]["confusion_matrix"][i][i] for i in range(3))
    assert all(group["drift"] > 0 for group in report["plan"]["groups"])
    assert report["rates"]["steps"][-1] == metrics["job"]["steps"] - 1
    assert report["duplicates"]["leaks"] == []


def test_time_shares_add_up(first_job: FinishedJob) -> None:
    report = report_of(first_job)
    parts = report["time"]["parts"]
    assert min(parts.values()) >= 0
    assert {"start", "data", "forward", "backward", "update", "evaluate", "save", "rest"} == set(parts)
    assert parts["forward"] > 0 < parts["backward"]
    assert abs(sum(parts.values()) - report["cost"]["seconds"]) < 1


def test_training_records_in_validation_are_leakage(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": holdout, "validation": holdout, "model": artifact}
    options = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "8", "price_per_hour": "3600"}
    job = succeeded(run_training(tmp_path, channels, options))
    report = report_of(job)
    assert report["duplicates"]["leaks"] == [{"parts": ["train", "validation"], "records": 24}]
    assert report["cost"]["price"] > 1
    assert "Leakage: 24 records" in (job.folder.output_data / "report.html").read_text("utf-8")
    drifts = {group["name"]: group["drift"] for group in report["plan"]["groups"]}
    assert drifts.pop("head") > 0
    assert set(drifts.values()) == {None}
