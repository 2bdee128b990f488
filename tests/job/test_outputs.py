"""The job reports the exported weights, and outputs appear completely or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetune.job.outputs import exported_line, exported_weights, metrics_of_best_epoch
from finetune.monitoring.metric_lines import final_line
from finetune.runtime.atomic_files import atomic_text_file, write_text_atomically
from tests.support.training_setup import TinyTraining, request


def test_last_epoch_is_exported_and_better_one_is_named() -> None:
    run = TinyTraining(request())
    assert run.fit()
    run.state.best.epoch, run.state.best.score = 0, 0.75
    assert exported_weights(run.state) == {"exported_weights": "last epoch", "exported_epoch": 3}
    line = exported_line(run.state)
    assert line.startswith("Exported weights: epoch 3 of 3, the last. Its accuracy on validation is ")
    assert line.endswith("the best is 0.7500, of epoch 1: early_stopping_patience exports the best epoch.")
    run.state.best.epoch = 2
    assert exported_line(run.state) == "Exported weights: epoch 3 of 3, the last."


def test_job_stopped_within_epoch_exports_last_step() -> None:
    run = TinyTraining(request(), stop_after=8)
    assert not run.fit()
    assert exported_weights(run.state) == {"exported_weights": "last step", "exported_epoch": None}
    assert exported_line(run.state) == "Exported weights: step 8, within epoch 2; not evaluated."


def test_best_epoch_is_exported_with_early_stopping() -> None:
    run = TinyTraining(request(early_stopping_patience="5"))
    assert run.fit()
    best = run.state.best.epoch + 1
    assert exported_weights(run.state) == {"exported_weights": "best epoch", "exported_epoch": best}


def test_stopped_job_logs_metrics_of_exported_best_epoch() -> None:
    run = TinyTraining(request(early_stopping_patience="5"), stop_after=15)
    assert not run.fit()
    best, rows = run.state.best, run.state.history.rows
    line = final_line(metrics_of_best_epoch(run.state))
    assert line.startswith(f"final; validation:loss={best.loss:.6f}; validation:accuracy={best.accuracy:.6f};")
    assert best.loss == rows[best.epoch]["validation:loss"]
    assert metrics_of_best_epoch(TinyTraining(request()).state) == {}


def test_failed_write_keeps_previous_file_and_frees_space(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_text_atomically(path, "before")
    with pytest.raises(OSError, match="No space left") as caught, atomic_text_file(path) as file:
        file.write("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("metrics.json", "before")]
