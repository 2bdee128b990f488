"""Every metric expression matches its own metric, and no other, in real log lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

from finetune.config.descriptions import all_hyperparameters
from finetune.config.parse import parse_hyperparameters
from finetune.monitoring.metric_definitions import SEARCH_RANGES, metric_definitions
from finetune.monitoring.metric_lines import METRICS, final_line, metric_line

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metric_definitions.json"


def test_metric_definitions_file_is_up_to_date() -> None:
    assert DOCUMENT.read_text("utf-8") == metric_definitions(), "run scripts/generate-docs"


def test_each_regex_matches_only_its_metric() -> None:
    values = {metric.name: 0.001 * index - 0.5 for index, metric in enumerate(METRICS)}
    line = metric_line(0, values)
    for metric in METRICS:
        assert [float(value) for value in re.findall(metric.regex, line)] == [round(values[metric.name], 6)]


def test_definitions_satisfy_platform_limits() -> None:
    document = json.loads(metric_definitions())
    assert len(document["metric_definitions"]) <= 40
    for entry in document["metric_definitions"]:
        assert set(entry) == {"Name", "Regex"}
        assert re.compile(entry["Regex"]).groups == 1
        assert len(entry["Regex"]) <= 500
        assert re.fullmatch(".+", entry["Name"])
    objectives = {entry["MetricName"]: entry["Type"] for entry in document["objectives"]}
    assert objectives["validation:accuracy"] == "Maximize"
    assert objectives["validation:loss"] == "Minimize"
    assert set(objectives.values()) == {"Maximize", "Minimize"}
    assert not [name for name in objectives if name.startswith(("train", "test"))]


def test_search_ranges_are_allowed_values() -> None:
    for name, search_range in SEARCH_RANGES.items():
        assert name in all_hyperparameters()
        values = search_range.get("values") or [search_range["min"], search_range["max"]]
        assert isinstance(values, list)
        for value in values:
            parse_hyperparameters({name: str(value)})


def test_final_line_contains_all_defined_metrics() -> None:
    part = {"loss": 0.5, "accuracy": 0.75, "auc": None, "macro": {"f1": 0.5, "precision": None, "recall": 1}}
    line = final_line({"validation": part, "test": part})
    assert line == (
        "final; validation:loss=0.500000; validation:accuracy=0.750000; validation:macro_f1=0.500000;"
        " validation:macro_recall=1.000000; test:macro_f1=0.500000; test:macro_recall=1.000000; test:loss=0.500000;"
        " test:accuracy=0.750000;"
    )
    assert final_line({}) == ""
