"""A job warns of a learning rate that is too high, and says first that it learned nothing or that its loss exploded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support.whole_jobs import FinishedJob, run_training, succeeded

SMALL = {"model_name": "resnet18", "image_size": "32", "strategy": "from_scratch", "batch_size": "8"}


def report_of(job: FinishedJob) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    return loaded


def test_learning_rate_of_another_optimizer_is_warned_of_before_the_first_step(
    tmp_path: Path, images: Path, artifact: Path
) -> None:
    options = {"strategy": "full", "learning_rate": "0.01", "epochs": "1", "batch_size": "8"}
    job = succeeded(run_training(tmp_path, {"train": images, "model": artifact}, options))
    warning = (
        "WARNING: rule LearningRate: learning_rate=0.01 is far above the usual range of adamw for pretrained layers"
    )
    assert 0 < job.log.index(warning) < job.log.index("first batch trained")
    assert "Next: set learning_rate=0.0002, or optimizer=sgd, for which 0.01 is usual." in job.log
    (finding,) = [finding for finding in report_of(job)["findings"] if finding["rule"] == "LearningRate"]
    # Where the model learns nothing, the finding lasts, and the verdict is not good.
    assert finding["resolved"] or report_of(job)["verdict"]["kind"] != "good"


def test_exploded_loss_is_the_first_line_of_the_report(tmp_path: Path, images: Path, holdout: Path) -> None:
    options = {**SMALL, "optimizer": "sgd", "learning_rate": "3", "lr_schedule": "constant", "warmup_fraction": "0"}
    job = succeeded(run_training(tmp_path, {"train": images, "validation": holdout}, {**options, "epochs": "2"}))
    report = report_of(job)
    findings = {finding["rule"]: finding for finding in report["findings"]}
    assert findings["ExplodingLoss"]["resolved"] is None
    assert "ExplodingLoss" in job.log
    assert findings["LearningRate"]["resolved"] is None
    assert report["verdict"]["kind"] != "good"
    page = (job.folder.output_data / "report.html").read_text("utf-8")
    assert "<h1" in page
    first_line = re.sub("<[^>]*>", "", page[page.index("<h1") : page.index("</h1>")])
    # A model at chance level says that first.
    assert first_line.startswith(("The validation loss exploded", "No better than", "Worse than", "Not clearly better"))
    assert any("equal probability" in reason for reason in report["verdict"]["reasons"])


def test_chance_level_is_a_finding_and_the_first_line_of_the_report(
    tmp_path: Path, images: Path, holdout: Path
) -> None:
    options = {**SMALL, "learning_rate": "1e-9", "epochs": "1"}
    job = succeeded(run_training(tmp_path, {"train": images, "validation": holdout}, options))
    report = report_of(job)
    assert {finding["rule"] for finding in report["findings"]} & {"ChanceLevel", "WorseThanGuess"}
    assert report["verdict"]["kind"] != "good"
    assert report["verdict"]["headline"].startswith(("No better than", "Worse than", "Not clearly better than"))
