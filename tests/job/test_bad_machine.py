"""Machine failures and internal errors are distinguished from errors in the request."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ROOT, build_request, run_request, train_in_folder

QUICK = {"strategy": "feature_extraction", "epochs": "1"}


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small in-memory file system on a folder."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system that is full or read-only")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system that is full or read-only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def folder(tmp_path: Path, holdout: Path, artifact: Path) -> JobFolder:
    """A job that would succeed."""
    return lay_out(tmp_path / "opt-ml", build_request({"train": holdout, "model": artifact}, QUICK))


def test_full_disk_is_a_platform_error(folder: JobFolder) -> None:
    with mounted(folder.model, "size=4m"):
        job = train_in_folder(folder.root)
        left = [path for path in folder.model.rglob("*") if path.is_file()]
    assert job.exit_code == 2
    assert "No space left on device" in job.failure.splitlines()[0]
    assert str(folder.model) in job.failure.splitlines()[0]
    assert "Traceback" not in job.failure
    assert not left


@pytest.mark.parametrize("through_train", [True, False])
def test_unwritable_model_folder_is_a_platform_error(folder: JobFolder, through_train: bool) -> None:
    with mounted(folder.model, "size=64m,ro"):
        job = train_in_folder(folder.root) if through_train else run_request(folder)
    assert job.exit_code == 2
    assert str(folder.model) in job.failure.splitlines()[0]
    assert "Traceback" not in job.failure


def test_unwritable_output_folder_keeps_the_exit_code(folder: JobFolder) -> None:
    with mounted(folder.output, "size=64k,ro"):
        job = train_in_folder(folder.root)
    assert job.exit_code == 2
    assert str(folder.output) in job.log


def test_volume_full_during_report_keeps_model_and_cause(folder: JobFolder) -> None:
    with mounted(folder.output_data, "size=4k"):
        job = run_request(folder)
        left = [path.name for path in folder.output_data.iterdir()]
    assert job.exit_code == 0, job.log
    assert (folder.model / "artifact.json").is_file()
    assert "repeats 4 predictions" in job.log
    cause = f"No space left on device ({folder.output_data / 'report.json'})"
    assert f"WARNING: The report was skipped; the job continues: {cause}" in job.log
    # No file is truncated, and no partial file takes the space of later ones.
    assert set(left) <= {"metrics.json", "validation_predictions.csv"}


@pytest.mark.parametrize("full", ["output", "output_data"])
def test_evaluation_on_full_volume_fails_with_cause(tmp_path: Path, holdout: Path, artifact: Path, full: str) -> None:
    folder = lay_out(tmp_path / "opt-ml", build_request({"test": holdout, "model": artifact}, {"strategy": "evaluate"}))
    workdir: Path = getattr(folder, full)
    with mounted(workdir, "size=20k" if full == "output" else "size=4k"):
        job = run_request(folder)
        cause, left = job.failure, [path.name for path in folder.output.iterdir()]
    assert job.exit_code == 2
    assert cause.startswith(f"The machine failed the job: No space left on device ({folder.output_data}")
    assert "Give the job a larger volume" in cause
    assert sorted(left) == ["data", "failure"]


def test_internal_error_shows_traceback(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import finetune.job.request as broken\n"
        "def check_channels(*_):\n"
        "    return {}['nothing']\n"
        "broken.check_channels = check_channels\n"
    )
    job = train_in_folder(folder.root, {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert job.exit_code == 3
    first, second, *_ = job.failure.splitlines()
    assert first == "Internal error, KeyError: 'nothing'"
    assert second == "This is a bug of the image, not of the request."
    assert "Traceback (most recent call last)" in job.failure
    assert "return {}['nothing']" in job.failure


def test_internal_error_during_training_shows_traceback(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("finetune.training.step.TrainStep.run", broken)
    job = run_request(folder)
    assert job.exit_code == 3
    assert job.failure.startswith("Internal error, ZeroDivisionError: division by zero\n")
    assert "Traceback" in job.failure
    assert not list(folder.model.iterdir())
