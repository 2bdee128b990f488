"""The job reports the exported weights, and outputs appear completely or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetune.job.outputs import exported_line, exported_weights, metrics_of_best_epoch
from finetune.monitoring.metric_lines import final_line
from finetune.monitoring.score import BestMetric
from finetune.runtime.atomic_files import atomic_text_file, write_text_atomically
from tests.support.training_setup import TinyTraining, request


def set_accuracies(run: TinyTraining, accuracies: tuple[float, ...]) -> None:
    for row, accuracy in zip(run.state.history.rows, accuracies, strict=True):
        row |= {"validation:accuracy": accuracy, "validation:loss": 0.5}


def test_last_epoch_is_exported_on_request_and_better_one_is_named() -> None:
    run = TinyTraining(request(), best_metric=BestMetric(exports=False))
    assert run.fit()
    run.state.best.epoch = 0
    set_accuracies(run, (0.75, 0.5, 0.5))
    assert exported_weights(run.state) == {"exported_weights": "last epoch", "exported_epoch": 3}
    assert exported_line(run.state) == (
        "Exported: epoch 3 of 3, the last, with validation accuracy 0.5000, loss 0.5000; the best is epoch 1 with"
        " accuracy 0.7500, loss 0.5000 (best_metric)."
    )
    run.state.best.epoch = 2
    assert exported_line(run.state) == "Exported: epoch 3 of 3, the last."


@pytest.mark.parametrize("exports", [False, True])
def test_job_stopped_within_epoch_exports_last_step_unless_an_epoch_was_evaluated(exports: bool) -> None:
    run = TinyTraining(request(), stop_after=3 if exports else 8, best_metric=BestMetric(exports=exports))
    assert not run.fit()
    assert exported_weights(run.state) == {"exported_weights": "last step", "exported_epoch": None}
    step = "3, within epoch 1" if exports else "8, within epoch 2"
    assert exported_line(run.state) == f"Exported: step {step}; not evaluated."


def test_job_stopped_before_the_solved_head_was_evaluated_exports_it() -> None:
    run = TinyTraining(request(), stop_after=1)
    assert not run.fit()
    run.state.history.solution = {"strength": 0.5}
    assert exported_weights(run.state) == {"exported_weights": "solved head", "exported_epoch": None}
    assert exported_line(run.state) == "Exported weights: the head solved with strength=0.5000; not evaluated."


def test_best_epoch_is_exported_by_default() -> None:
    run = TinyTraining(request())
    assert run.fit()
    best = run.state.best.epoch + 1
    assert exported_weights(run.state) == {"exported_weights": "best epoch", "exported_epoch": best}
    run.state.best.epoch = 1
    set_accuracies(run, (0.5, 0.75, 0.5))
    line = "Exported: epoch 2 of 3 by validation accuracy 0.7500, loss 0.5000; "
    assert exported_line(run.state) == f"{line}epoch 3, the last, has accuracy 0.5000, loss 0.5000."
    run.state.best.epoch = 2
    assert exported_line(run.state).endswith("accuracy 0.5000, loss 0.5000; it is the last epoch.")


def test_stopped_job_logs_metrics_of_exported_best_epoch() -> None:
    run = TinyTraining(request(), stop_after=15)
    assert not run.fit()
    best, rows = run.state.best, run.state.history.rows
    line = final_line(metrics_of_best_epoch(run.state))
    assert line.startswith(f"final; validation:loss={best.loss:.6f}; validation:accuracy={best.accuracy:.6f};")
    assert best.loss == rows[best.epoch]["validation:loss"]
    assert metrics_of_best_epoch(TinyTraining(request()).state) == {}
    rows[best.epoch]["validation:macro_f1"] = 0.25
    assert "validation:macro_f1=0.250000;" in final_line(metrics_of_best_epoch(run.state))


def test_failed_write_keeps_previous_file_and_frees_space(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_text_atomically(path, "before")
    with pytest.raises(OSError, match="No space left") as caught, atomic_text_file(path) as file:
        file.write("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("metrics.json", "before")]
