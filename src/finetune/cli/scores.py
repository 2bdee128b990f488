"""Accuracy, macro F1 and a table of the classes for predictions with known labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.tasks.metrics import metrics_of_decisions

MAX_ROWS = 50
"""Maximum number of classes in the table; of more, those with the lowest F1 are listed."""


class Scores:
    """Counts decisions, and prints the scores of those with known labels.

    Inputs with labels that the model does not know are counted separately, since no prediction of them can be right.

    Args:
        labels: classes of the model.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._indices = {name: index for index, name in enumerate(labels)}
        self._counts = np.zeros((len(labels), 3), dtype=np.int64)
        self._labeled = self._correct = self._without_prediction = 0
        self._unknown: Counter[str] = Counter()

    def add(self, labels: tuple[str, ...] | None, record: Mapping[str, Any]) -> None:
        """Count the decision for an input, if its labels are known."""
        if labels is None:
            return
        if unknown := [name for name in labels if name not in self._indices]:
            self._unknown.update(unknown)
            return
        is_multi_label = "predicted_labels" in record
        label = record.get("predicted_label")
        predicted = set(record["predicted_labels"] if is_multi_label else () if label is None else (label,))
        truth = set(labels)
        self._labeled += 1
        self._correct += predicted == truth
        self._without_prediction += not predicted and not is_multi_label
        for column, names in enumerate((predicted & truth, predicted, truth)):
            for name in names:
                self._counts[self._indices[name], column] += 1

    def print(self, console: Console) -> None:
        """Print the scores, if labels are known."""
        if self._unknown:
            names = ", ".join(f"{name!r} ({count:,})" for name, count in self._unknown.most_common(5))
            console.print(
                f"Left out of the scores: {self._unknown.total():,} labels that the model does not know: {names}"
            )
        if not self._labeled:
            return
        metrics = metrics_of_decisions(self._counts, self._labels)
        accuracy = f"accuracy {self._correct / self._labeled:.4f} ({self._correct:,} of {self._labeled:,})"
        console.print(f"{accuracy}, macro F1 {_number(metrics['macro']['f1'])}")
        if self._without_prediction:
            answered = self._labeled - self._without_prediction
            others = f"; accuracy of the others {self._correct / answered:.4f}" if answered else ""
            console.print(f"{self._without_prediction:,} without a predicted label{others}")
        console.print(_table(metrics["per_class"]))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [row for row in rows if row["support"] or row["precision"] is not None]
    table = Table(box=None, pad_edge=False)
    if len(shown) > MAX_ROWS:
        shown = sorted(shown, key=lambda row: row["f1"] if row["f1"] is not None else 0.0)[:MAX_ROWS]
        table.title = f"The {MAX_ROWS} classes with the lowest F1 of {len(rows):,}"
    table.add_column("class", overflow="fold")
    for name in ("precision", "recall", "f1", "support"):
        table.add_column(name, justify="right")
    for row in shown:
        numbers = [_number(row[name]) for name in ("precision", "recall", "f1")]
        table.add_row(Text(row["label"]), *numbers, f"{row['support']:,}")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
