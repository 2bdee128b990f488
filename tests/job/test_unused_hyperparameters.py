"""The plan and the report list hyperparameters that have no effect in the current job."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.whole_jobs import run_training, succeeded


def test_plan_lists_unused_hyperparameters(tmp_path: Path, images: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": images, "validation": holdout, "model": artifact}
    options = {"epochs": "1", "validation_fraction": "0.1", "augmentation_views": "4", "image_size": "32"}
    options |= {
        "strategy": "full",
        "text_column": "words",
        "cache_size_gb": "1",
        "checkpoint_keep": "3",
        "momentum": "0.9",
    }
    job = succeeded(run_training(tmp_path, channels, options))
    log_notes = [line.strip() for line in job.log.splitlines() if line.startswith("  note ")]
    assert log_notes == [
        "note      text_column has no effect: it applies to texts, and the task is image-classification.",
        "note      validation_fraction has no effect: there is a channel 'validation'.",
        "note      augmentation_views has no effect: no layers are frozen from the input on, so there are no features"
        " to cache.",
        "note      checkpoint_keep has no effect: the job has no checkpoint folder.",
    ]
    notes = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))["asked"]["notes"]
    assert [line.removeprefix("note").strip() for line in log_notes] == notes[1:]
    assert notes[0] == "momentum has no effect: only sgd, rmsprop and nag use it."
