"""Report section on confusions: a matrix for few classes, the most confused pairs for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.monitoring.report.markup import Html, number, percent, section, table, tag
from finetune.monitoring.report.names import common_prefix, short_names
from finetune.monitoring.report.verdict import evaluated_part

MAX_MATRIX_CLASSES = 24
_MIN_WIDE_CLASSES = 8
"""Number of classes above which the matrix takes the whole width."""
_MAX_HEADING_LENGTH = 14
_MAX_PAIRS, _MAX_PAIRS_OF_MANY = 12, 30


def confusion(report: Mapping[str, Any]) -> Html | None:
    """Render which classes are confused with each other."""
    part, metrics = evaluated_part(report)
    if metrics is None or "confusion_pairs" not in metrics:
        return None
    labels, matrix = metrics["labels"], metrics.get("confusion_matrix")
    if matrix is None or len(labels) > MAX_MATRIX_CLASSES:
        pairs = _pairs(metrics, _MAX_PAIRS_OF_MANY)
        lead = f"On {part}: the most frequently confused classes."
        return section("Confusion", pairs, name="confusion", wide=True, lead=lead)
    lead = f"On {part}: one row per true class, one column per predicted class; colors show the share of the row."
    prefix = common_prefix(labels)
    if prefix:
        lead += f" The common prefix {prefix} of the class names is omitted."
    pairs = _pairs(metrics, _MAX_PAIRS)
    if metrics["confusion_pairs"]:
        pairs = tag("details", tag("summary", "Most frequent confusions"), pairs)
    wide = len(labels) >= _MIN_WIDE_CLASSES
    return section("Confusion", _matrix(labels, matrix), pairs, name="confusion", wide=wide, lead=lead)


def _matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Html:
    names = short_names(labels, _MAX_HEADING_LENGTH, prefix=common_prefix(labels))
    rows = []
    for row_index, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = []
        for column_index, count in enumerate(counts):
            share = count / total
            kind = ("right" if row_index == column_index else "wrong") + (
                " zero" if not count else " strong" if share > 0.55 else ""
            )
            title = f"{labels[row_index]} predicted as {labels[column_index]}: {count} of {total}"
            value = f"--v:{share**0.6:.2f}"
            cells.append(tag("td", str(count), class_=kind, style=value, title=title))
        rows.append(tag("tr", tag("th", names[row_index], scope="row", title=labels[row_index]), *cells))
    columns = (
        tag("th", tag("span", name), scope="col", title=label) for name, label in zip(names, labels, strict=True)
    )
    head = tag("tr", tag("td"), *columns)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll matrix", tabindex="0")


def _pairs(metrics: Mapping[str, Any], limit: int) -> Html:
    pairs = metrics["confusion_pairs"][:limit]
    if not pairs:
        return tag("p", "No class is confused with another.", class_="note")
    support = {row["label"]: row["support"] for row in metrics["per_class"]}
    rows = [
        (truth, predicted, number(count), percent(count / max(1, support[truth]))) for truth, predicted, count in pairs
    ]
    pair_table = table(("true class", "predicted class", "records", "share of class"), rows, class_="words pairs")
    more = metrics["confusion_pairs_count"] - len(pairs)
    note = tag("p", f"{more:,} more pairs are in metrics.json.", class_="note") if more > 0 else None
    return tag("div", pair_table, note)
