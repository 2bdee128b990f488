"""The predictions table: safe in spreadsheets, exact for programs, and small with thousands of classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from finetune.data.labels import LabelMap
from finetune.evaluation.predict import EvaluationResult, Predictions
from finetune.job.evaluate import metrics_of
from finetune.job.outputs import write_metrics, write_predictions
from finetune.monitoring.report import page
from finetune.monitoring.report.verdict import verdict
from finetune.tasks.create import create_task
from tests.support.reports import example


class Batches:
    """The part of the batches' interface that the table uses."""

    def __init__(self, labels: LabelMap, keys: list[str]) -> None:
        self.label_map, self.keys = labels, keys

    def key(self, position: int) -> str:
        return self.keys[position]


def evaluated(
    names: tuple[str, ...], targets: list[int], keys: list[str] | None = None, seed: int = 0
) -> EvaluationResult:
    rng = np.random.default_rng(seed)
    scores = rng.random((len(targets), len(names)), dtype=np.float32)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    predictions = Predictions(np.arange(len(targets)), np.array(targets), probabilities, 1.0)
    batches = Batches(LabelMap(names, False), keys or [f"{at}.jpg" for at in range(len(targets))])
    return EvaluationResult(cast(Any, batches), predictions)


def written(folder: Path, result: EvaluationResult, metrics: dict[str, object] | None = None) -> list[list[str]]:
    write_metrics(folder, metrics or {})
    write_predictions(folder, {"test": result}, create_task(result.batches.label_map))
    with (folder / "test_predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_of_job_are_escaped(tmp_path: Path) -> None:
    names = ("=1+1", "-1")
    _, *rows = written(tmp_path, evaluated(names, [0, 1], ["@a.jpg", "b.jpg"]))
    assert [row[:2] for row in rows] == [["'@a.jpg", "'=1+1"], ["b.jpg", "-1"]]
    assert {row[2] for row in rows} <= {"'=1+1", "-1"}


def test_up_to_200_classes_have_all_probabilities(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(200))
    header, row = written(tmp_path, evaluated(names, [3]))
    assert header[3:] == [f"probability:{name}" for name in names]
    assert sum(map(float, row[3:])) == pytest.approx(1, abs=1e-3)


def test_more_classes_have_the_top_ten(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(201))
    result = evaluated(names, [3, 5])
    header, *rows = written(tmp_path, result)
    assert header[:7] == ["record", "label", "predicted_label", *(
        f"{column}:top_{rank}" for rank in (1, 2) for column in ("label", "probability")
    )]  # fmt: skip
    assert len(header) == 3 + 20
    for row, probabilities in zip(rows, result.predictions.probabilities, strict=True):
        order = np.argsort(-probabilities, kind="stable")[:10]
        assert row[3::2] == [names[at] for at in order]
        assert row[4::2] == [f"{probabilities[at]:.6f}" for at in order]
        assert row[2] == row[3]


def test_files_for_thousands_of_classes_are_small(tmp_path: Path) -> None:
    names = tuple(f"class {number:04}" for number in range(3000))
    result = evaluated(names, [at % 3000 for at in range(2000)])
    metrics = metrics_of(result, create_task(result.batches.label_map), None)
    assert "confusion_matrix" not in metrics
    pairs = cast(list[list[Any]], metrics["confusion_pairs"])
    accuracy = cast(float, metrics["accuracy"])
    low, high = cast(list[float], metrics["accuracy_interval"])
    assert low <= accuracy <= high
    assert 0 < high - low < 2 * 1.96 * (0.25 / 2000) ** 0.5
    assert sum(count for _, _, count in pairs) == 2000 - round(2000 * accuracy)
    written(tmp_path, result, {"test": metrics})
    counts = dict.fromkeys(names, 1)
    report = example() | {"parts": {"test": metrics}, "classes": {"train": counts}, "training_counts": counts}
    report["records"] = {"train": 3000}
    assert verdict(report).kind != "good"
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    sizes |= {"report.json": len(json.dumps(report, indent=1)), "report.html": len(page(report))}
    assert sizes.keys() == {"metrics.json", "test_predictions.csv", "report.json", "report.html"}
    assert max(sizes.values()) < 3_000_000, sizes
