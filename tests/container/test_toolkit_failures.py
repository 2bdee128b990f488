"""Failures of sagemaker-training itself are reported by their cause, never as `Framework Error:`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from container.job import rewrite_toolkit_failure
from finetune.sagemaker.paths import Paths
from tests.support.whole_jobs import FinishedJob, train_in_folder

NESTED = "[" * 1250 + "]" * 1250


def start(root: Path, hyperparameters: Mapping[str, str], variables: Mapping[str, str] | None = None) -> FinishedJob:
    (root / "input" / "config").mkdir(parents=True)
    (root / "input" / "data" / "train").mkdir(parents=True)
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters), "utf-8")
    return train_in_folder(root, variables)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("class_names", NESTED, "is JSON that is nested too deeply"),
        ("anything", '{"a":' * 200 + "1" + "}" * 200, "is JSON that is nested too deeply"),
        ("model_name", "a\0b", "contains the character NUL"),
        ("model_name", "a\ud800", "contains half of a surrogate pair"),
    ],
)
def test_invalid_hyperparameter_is_reported(tmp_path: Path, name: str, value: str, fault: str) -> None:
    job = start(tmp_path, {name: value})
    assert job.exit_code == 1
    assert job.failure.startswith(f"Hyperparameter {name!r} {fault}")
    assert len(job.failure) < 300


def test_empty_path_variable_uses_default(tmp_path: Path) -> None:
    job = start(tmp_path, {"epochs": "many"}, {"PATH": ""})
    assert job.exit_code == 1
    assert job.failure.startswith("epochs='many' is not allowed")


def test_missing_program_is_reported(tmp_path: Path) -> None:
    job = start(tmp_path, {}, {"PATH": str(tmp_path)})
    assert job.exit_code == 2
    assert "No such file or directory: 'which'" in job.failure.splitlines()[0]


def test_invalid_toolkit_value_is_reported_with_cause(tmp_path: Path) -> None:
    job = start(tmp_path, {"sagemaker_container_log_level": "loud"})
    assert job.exit_code == 1
    assert "Unknown level: 'loud'" in job.failure.splitlines()[0]


@pytest.mark.parametrize("heading", ["Framework Error:", "SMTrainingCompiler Error:"])
def test_out_of_memory_in_toolkit_is_reported(tmp_path: Path, heading: str) -> None:
    paths = Paths(tmp_path)
    paths.output.mkdir()
    paths.failure.write_text(f"{heading} \nTraceback:\n  File\nImportError: a.so: failed to map segment\n\na", "utf-8")
    assert rewrite_toolkit_failure(paths, 1) == 2
    assert paths.failure.read_text("utf-8").startswith("The machine ran out of memory")


@pytest.mark.parametrize("code", [1, 2, 3])
def test_other_failures_are_unchanged(tmp_path: Path, code: int) -> None:
    paths = Paths(tmp_path)
    assert rewrite_toolkit_failure(paths, code) == code
    paths.output.mkdir()
    paths.failure.write_text("the cause", "utf-8")
    assert rewrite_toolkit_failure(paths, code) == code
    assert paths.failure.read_text("utf-8") == "the cause"
