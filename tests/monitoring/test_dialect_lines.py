"""Metric definitions published for other tools find the values in the lines of their dialect."""

from __future__ import annotations

import re

import pytest

from finetune.config.dialects.dialect import DialectName
from finetune.config.dialects.table import DIALECTS
from finetune.monitoring.dialect_lines import DialectLines
from tests.support.published_requests import METRIC_DEFINITIONS

EPOCH = {"train:loss": 0.5, "train:accuracy": 0.8, "validation:loss": 0.4, "validation:accuracy": 0.9123}
FINAL = {"validation:loss": 0.4, "validation:accuracy": 0.9123, "validation:macro_f1": 0.89}
VALUES = {"train_loss": 0.5, "train_accuracy": 0.8, "loss": 0.4, "accuracy": 0.9123, "f1": 0.89, "epoch": 4.0}


def log(name: DialectName) -> list[str]:
    lines = DialectLines(name)
    return [*lines.epoch(3, 4, EPOCH, 1.5e-5), *lines.final(4, FINAL, 12.5)]


@pytest.mark.parametrize(
    ("dialect", "regex", "value"),
    [(dialect, regex, value) for dialect, definitions in METRIC_DEFINITIONS for regex, value in definitions.items()],
)
def test_published_expression_finds_the_value(dialect: DialectName, regex: str, value: str) -> None:
    found = [match[1] for line in log(dialect) if (match := re.search(regex, line))]
    expected = VALUES | {"learning_rate": 1.5e-5, "seconds": 12.5}
    assert found
    assert float(found[-1]) == pytest.approx(expected[value])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_has_a_line_for_the_validation_accuracy(dialect: DialectName) -> None:
    assert any("0.912300" in line for line in DialectLines(dialect).final(4, FINAL, 1.0))


def test_undefined_metrics_are_left_out() -> None:
    assert DialectLines("huggingface").epoch(0, 1, {"train:loss": 0.5}) == ["{'loss': 0.500000, 'epoch': 1.0}"]
    assert DialectLines("jumpstart").epoch(0, 1, {}) == []


def test_no_lines_without_a_dialect() -> None:
    assert DialectLines(None).final(4, FINAL, 1.0) == []
