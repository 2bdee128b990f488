"""The artifact is compared with the model in float32, whatever the job's precision, and the difference is reported."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from finetune.job import export_check as proof
from finetune.job.loaders import PROBE_RECORDS
from tests.support.whole_jobs import finished, train_here

REPEATED = re.compile(r"repeats (\d+) predictions; largest difference of a probability (\S+), tolerance 1e-04")
ROUNDED = re.compile(
    r"Evaluated in bf16, probabilities of these records differ by up to (\S+) from those of the artifact"
)


@pytest.fixture
def unsure(network: Path, tmp_path: Path) -> Path:
    """A model with probabilities far enough from 0 and 1 for rounding errors to show."""
    folder = shutil.copytree(network, tmp_path / "unsure")
    weights = load_file(folder / "model.safetensors")
    weights["fc.weight"] *= 0.3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_job_in_bf16_is_proven_in_float32(
    tmp_path: Path, unseen: Path, unsure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_WORTH_A_WARNING", 1e-4)
    wishes = {"strategy": "evaluate", "precision": "bf16"}
    job = finished(train_here(tmp_path / "job", {"test": unseen, "model": unsure}, wishes))
    count, difference = REPEATED.findall(job.log)[0]
    (rounded,) = ROUNDED.findall(job.log)
    assert int(count) == PROBE_RECORDS
    assert float(difference) < 1e-4 < float(rounded)
    assert "WARNING: Evaluated in bf16" in job.log
    assert "with precision=fp32 they are the same" in job.log


def test_without_an_evaluation_the_network_answers_in_float32_for_the_proof(
    tmp_path: Path, unseen: Path, network: Path
) -> None:
    wishes = {"strategy": "feature_extraction", "epochs": "1", "precision": "bf16", "validation_fraction": "0"}
    job = finished(train_here(tmp_path / "job", {"train": unseen, "model": network}, wishes))
    assert REPEATED.search(job.log)
    assert "Evaluated in bf16" not in job.log


def test_in_float32_the_evaluation_itself_is_repeated(tmp_path: Path, unseen: Path, network: Path) -> None:
    wishes = {"strategy": "evaluate", "precision": "fp32"}
    job = finished(train_here(tmp_path / "job", {"test": unseen, "model": network}, wishes))
    assert REPEATED.search(job.log)
    assert "Evaluated in" not in job.log
