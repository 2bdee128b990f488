"""Tables are read identically in every format, and text pairs are classified."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import run_training, succeeded

QUICK = {"strategy": "full", "epochs": "2", "batch_size": "8"}
ROWS = [
    {"label": animal, "text": f"the {animal} {doing} {preposition} the mat, {number}"}
    for animal in ("cat", "dog")
    for doing in ("sat", "ran")
    for preposition in ("on", "in")
    for number in range(3)
]


def _delimited(delimiter: str) -> bytes:
    file = io.StringIO()
    rows = csv.DictWriter(file, ["label", "text"], delimiter=delimiter)
    rows.writeheader()
    rows.writerows(ROWS)
    return file.getvalue().encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(file)
    return file.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {
    "csv": lambda: _delimited(","),
    "tsv": lambda: _delimited("\t"),
    "jsonl": lambda: "\n".join(json.dumps(row) for row in ROWS).encode(),
    "parquet": _parquet,
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bert") / "bert", "bert")


def write_table(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder


def test_table_formats_give_identical_results(tmp_path: Path, artifact: Path) -> None:
    weights, predictions = set(), []
    for form, content in FORMATS.items():
        train = write_table(tmp_path / form, f"rows.{form}", content())
        job = succeeded(run_training(tmp_path / f"job-{form}", {"train": train, "model": artifact}, QUICK))
        assert job.artifact()["labels"] == ["cat", "dog"]
        weights.add(job.weights())
        predictions.append([list(row.values())[1:] for row in job.predictions()])
    assert len(weights) == 1
    assert all(prediction == predictions[0] for prediction in predictions)


def test_header_with_unusual_names_is_recognized(tmp_path: Path, artifact: Path) -> None:
    rows = [f'{row["label"]},"{row["text"]}"\n' for row in ROWS]
    train = write_table(tmp_path / "rows", "rows.csv", "".join(["topic,utterance\n", *rows]).encode())
    job = succeeded(run_training(tmp_path / "job", {"train": train, "model": artifact}, QUICK))
    assert job.artifact()["labels"] == ["cat", "dog"]
    assert "rows.csv: label from column 'topic', text from 'utterance'" in job.log


def test_pairs_of_texts_are_classified(tmp_path: Path, artifact: Path) -> None:
    rows = [
        {"label": str(int(label == other)), "text": f"the {label} {number}", "second": f"a {other} {number}"}
        for label in ("cat", "dog")
        for other in ("cat", "dog")
        for number in range(6)
    ]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    train = write_table(tmp_path / "pairs", "pairs.jsonl", content)
    options = {**QUICK, "text_pair_column": "second"}
    job = succeeded(run_training(tmp_path / "job", {"train": train, "model": artifact}, options))
    assert job.artifact()["preprocessing"]["texts_per_record"] == 2
    assert "The exported artifact repeats" in job.log


def test_several_classes_per_text(tmp_path: Path, artifact: Path) -> None:
    rows = [
        {"labels": [name for name in ("cat", "dog") if name in text], "text": f"{text} {number}"}
        for text in ("the cat", "the dog", "the cat and the dog", "the mat")
        for number in range(5)
    ]
    train = write_table(tmp_path / "rows", "rows.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    options = {**QUICK, "multi_label": "true", "label_column": "labels"}
    job = succeeded(run_training(tmp_path / "job", {"train": train, "model": artifact}, options))
    assert job.artifact()["multi_label"] is True
    assert {row["label"] for row in job.predictions()} <= {"", "cat", "dog", "cat|dog"}


def test_adapted_model_is_evaluated_and_adapted_again(tmp_path: Path, artifact: Path) -> None:
    train = write_table(tmp_path / "rows", "rows.csv", FORMATS["csv"]())
    first = succeeded(run_training(tmp_path / "first", {"train": train, "model": artifact}, QUICK))
    channels = {"test": train, "model": first.folder.model}
    evaluated = succeeded(run_training(tmp_path / "second", channels, {"strategy": "evaluate"}))
    assert evaluated.weights() == first.weights()
    assert evaluated.metrics()["test"]["records"] == len(ROWS)
    channels = {"train": train, "model": first.folder.model}
    again = succeeded(run_training(tmp_path / "third", channels, {**QUICK, "strategy": "feature_extraction"}))
    assert again.metrics()["job"]["kept_head"]
