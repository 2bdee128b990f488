"""A job with infinite values fails, says why, and leaves only valid JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.whole_jobs import FinishedJob, run_training

pytestmark = pytest.mark.slow

# With L2 weight decay in the gradient, each step multiplies every weight by nine: overflow in float32 within 40 steps.
HOPELESS = {
    "strategy": "full",
    "epochs": "8",
    "batch_size": "4",
    "optimizer": "sgd",
    "weight_decay": "1",
    "learning_rate": "10",
    "head_learning_rate": "10",
    "warmup_fraction": "0",
    "lr_schedule": "constant",
}


def strictly(path: Path) -> dict[str, Any]:
    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{path.name} has {word}, which JSON does not know")

    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    return loaded


def explained(job: FinishedJob) -> dict[str, Any]:
    """The report of a job that failed without a model."""
    assert job.exit_code == 1
    assert not (job.folder.model / "artifact.json").exists()
    report = strictly(job.folder.output_data / "report.json")
    metrics = strictly(job.folder.output_data / "metrics.json")
    assert report["failure"] == metrics["failure"] == job.failure.strip()
    page = (job.folder.output_data / "report.html").read_text("utf-8")
    assert "The job failed" in page
    assert ">nan<" not in page.lower()
    return report


@pytest.mark.parametrize("action", ["log", "stop"])
def test_report_of_diverged_job_names_the_cause(tmp_path: Path, images: Path, artifact: Path, action: str) -> None:
    # Batches of four give 15 steps per epoch, fewer than it takes until the weights are infinite.
    options = {**HOPELESS, "rules": "ExplodingTensor", "rule_action": action, "checkpoint_interval_steps": "5"}
    report = explained(run_training(tmp_path, {"train": images, "model": artifact}, options))
    severe = [finding["rule"] for finding in report["findings"] if finding["grave"]]
    assert severe in (
        ["Diverged"],
        ["ExplodingTensor"],
    )
    assert report["not_finite"]


def test_nan_loss_is_null_with_reason(tmp_path: Path, images: Path, artifact: Path) -> None:
    report = explained(run_training(tmp_path, {"train": images, "model": artifact}, {**HOPELESS, "rules": "none"}))
    assert "The training loss became" in report["failure"]
    last = len(report["history"]) - 1
    assert report["history"][last]["train:loss"] is None
    assert report["not_finite"][f"history.{last}.train:loss"] in {"not a number", "infinite"}


def test_diverged_job_stopped_by_rule_exports_nothing(tmp_path: Path, images: Path, artifact: Path) -> None:
    # The updates are reported before the weights are infinite, but the model's outputs are infinite.
    options = {**HOPELESS, "rules": "WeightUpdateRatio:large_threshold=5", "rule_action": "stop"}
    report = explained(run_training(tmp_path, {"train": images, "model": artifact}, options))
    assert report["parts"] == {}
    assert [finding["rule"] for finding in report["findings"]] == ["WeightUpdateRatio"]
    assert "15 of 15 records are not finite" in report["failure"]
