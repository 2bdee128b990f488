"""Optional parts of a job fail with a warning and never affect the model."""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path

import pytest
import torch

from finetune.errors import DivergedError, JobStopped, PlatformError
from finetune.evaluation.drift import InitialWeights
from finetune.job import evaluate, run
from finetune.monitoring.rules import tensors
from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.optional import Guard, optional
from finetune.tasks.single_label import SingleLabelClassification
from finetune.training.observers import rules as watching
from tests.support.coloured_images import write_images
from tests.support.whole_jobs import run_training, succeeded

pytestmark = pytest.mark.slow

SHORT = {"strategy": "full", "epochs": "2", "batch_size": "6", "augmentation": "none"}
FAILURES = [
    ZeroDivisionError("division by zero"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    PlatformError("The disk failed."),
    OSError(errno.ENOSPC, "No space left on device", "/opt/ml/output/data/report.json"),
]


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", FAILURES)
def test_failure_of_optional_part_is_a_warning(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with optional("The report"):
        fail(error)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("The report was skipped; the job continues: ")
    assert str(error).removeprefix("[Errno 28] ").partition(":")[0] in record.getMessage()


@pytest.mark.parametrize("error", [JobStopped(), KeyboardInterrupt(), SystemExit(1), DivergedError("Diverged.")])
def test_interruption_is_reraised(error: BaseException) -> None:
    with pytest.raises(type(error)), optional("The report", reraised=DivergedError):
        raise error


def test_failure_of_required_part_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), optional("The predictions", required=True):
        raise ZeroDivisionError


def test_failed_part_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def call(number: int) -> None:
        calls.append(number)
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    guard = Guard("Writing events")
    for number in range(5):
        guard(call, number)
    assert calls == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "Writing events was skipped; the job continues: No space left on device"
    ]


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("division by zero")


def test_failing_optional_parts_do_not_change_the_model(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = {"train": holdout, "model": artifact}
    whole = succeeded(run_training(tmp_path / "whole", channels, SHORT))
    for name in (
        "measure_forgetting",
        "findings_about_evaluation",
        "write_metrics",
        "write_predictions",
        "write_bad_records",
    ):
        monkeypatch.setattr(run, name, broken)
    monkeypatch.setattr(run, "write_report", broken)
    monkeypatch.setattr(InitialWeights, "drift", broken)
    monkeypatch.setattr(EventFile, "add_scalars", broken)
    monkeypatch.setattr(watching, "check_curves", broken)
    monkeypatch.setattr(tensors, "gradient_statistics", broken)
    job = succeeded(run_training(tmp_path / "job", channels, SHORT))
    assert job.weights() == whole.weights()
    skipped = [line.partition(" was skipped")[0] for line in job.log.splitlines() if " was skipped" in line]
    assert [line.removeprefix("WARNING: ") for line in skipped] == [
        "The tensor rules",
        "The TensorBoard events",
        "The training rules",
        "The rules about the evaluation",
        "Measuring forgetting",
        "Measuring the drift of the layers",
        "Writing metrics.json",
        "Writing the predictions",
        "Writing bad_records.json",
        "The report",
    ]
    assert job.log.index("repeats 4 predictions") < job.log.index("The report was skipped")


@pytest.mark.parametrize("cause", ["unreadable", "broken metrics"])
def test_failed_test_evaluation_keeps_the_model(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    test = shutil.copytree(holdout, tmp_path / "test")
    if cause == "unreadable":
        for file in test.rglob("*.png"):
            file.write_bytes(b"no image")
    else:
        monkeypatch.setattr(evaluate, "metrics_of", broken)
    channels = {"train": holdout, "test": test, "model": artifact}
    job = succeeded(run_training(tmp_path / "job", channels, SHORT))
    assert "WARNING: The evaluation of 'test' was skipped; the job continues: " in job.log
    assert "The exported artifact repeats" in job.log
    assert "test" not in job.metrics()


def test_evaluation_of_objective_channel_is_required(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = write_images(tmp_path / "test", 1)
    for file in test.rglob("*.png"):
        file.write_bytes(b"no image")
    options = {**SHORT, "_tuning_objective_metric": "test:accuracy"}
    job = run_training(tmp_path / "job", {"train": holdout, "test": test, "model": artifact}, options)
    assert job.exit_code == 1
    assert "channel 'test'" in job.failure


def test_failed_threshold_measurement_keeps_the_thresholds(
    tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SingleLabelClassification, "metrics_at_thresholds", broken)
    train = write_images(tmp_path / "train", 8, names=("blue", "green"))
    # Without best_metric, the same measurement would determine the exported epoch.
    options = {**SHORT, "target_recall": "0.9", "best_metric": "accuracy"}
    job = succeeded(run_training(tmp_path / "job", {"train": train, "model": artifact}, options))
    assert sum(job.artifact()["thresholds"]) == 1
    assert "WARNING: Measuring the thresholds on 'validation' was skipped" in job.log


def test_failed_export_check_fails_the_job_after_the_report(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "export_and_verify", broken)
    job = run_training(tmp_path / "job", {"train": holdout, "model": artifact}, SHORT)
    assert job.exit_code == 3
    assert job.metrics()["failure"] == "ZeroDivisionError: division by zero"
    assert (job.folder.output_data / "report.html").is_file()
