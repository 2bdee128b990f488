"""The artifact is compared with the model in float32, whatever the job's precision, and the difference is reported."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from finetune.job import export_check
from finetune.job.data.loaders import PROBE_RECORDS
from tests.support.whole_jobs import run_training, succeeded

REPEATED = re.compile(r"repeats (\d+) predictions; largest difference of a probability (\S+), tolerance 1e-04")
ROUNDED = re.compile(
    r"Evaluated in bf16: probabilities of these records differ by up to (\S+) from those of the artifact"
)


@pytest.fixture
def unsure(artifact: Path, tmp_path: Path) -> Path:
    """A model with probabilities far enough from 0 and 1 for rounding errors to show."""
    folder = shutil.copytree(artifact, tmp_path / "unsure")
    weights = load_file(folder / "model.safetensors")
    weights["fc.weight"] *= 0.3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_export_of_bf16_job_is_checked_in_float32(
    tmp_path: Path, holdout: Path, unsure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_check, "_WARNING_DIFFERENCE", 1e-4)
    options = {"strategy": "evaluate", "precision": "bf16"}
    job = succeeded(run_training(tmp_path / "job", {"test": holdout, "model": unsure}, options))
    count, difference = REPEATED.findall(job.log)[0]
    (rounded,) = ROUNDED.findall(job.log)
    assert int(count) == PROBE_RECORDS
    assert float(difference) < 1e-4 < float(rounded)
    assert "WARNING: Evaluated in bf16" in job.log
    assert "precision=fp32 avoids it" in job.log


def test_export_check_without_evaluation_predicts_in_float32(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "feature_extraction", "epochs": "1", "precision": "bf16", "validation_fraction": "0"}
    job = succeeded(run_training(tmp_path / "job", {"train": holdout, "model": artifact}, options))
    assert REPEATED.search(job.log)
    assert "Evaluated in bf16" not in job.log


def test_export_check_in_float32_reuses_the_evaluation(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "evaluate", "precision": "fp32"}
    job = succeeded(run_training(tmp_path / "job", {"test": holdout, "model": artifact}, options))
    assert REPEATED.search(job.log)
    assert "Evaluated in" not in job.log
