"""Report section on confusions: a matrix for few classes, the most confused pairs for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.monitoring.report.markup import Piece, number, percent, section, table, tag
from finetune.monitoring.report.names import common_beginning, short_names
from finetune.monitoring.report.verdict import judged

MOST_CLASSES_AS_MATRIX = 24
_WIDE_FROM = 8
"""Number of classes above which the matrix takes the whole width."""
_LONGEST_HEADING = 14
_MOST_CONFUSIONS, _MOST_CONFUSIONS_OF_MANY = 12, 30


def confusion(report: Mapping[str, Any]) -> Piece | None:
    """Render which classes are confused with each other."""
    part, metrics = judged(report)
    if metrics is None or "confusion_pairs" not in metrics:
        return None
    labels, matrix = metrics["labels"], metrics.get("confusion_matrix")
    if matrix is None or len(labels) > MOST_CLASSES_AS_MATRIX:
        pairs = _pairs(metrics, _MOST_CONFUSIONS_OF_MANY)
        lead = f"On {part}: the classes that are most often taken for another one."
        return section("Confusion", pairs, name="confusion", wide=True, lead=lead)
    lead = f"On {part}: a row per true class, a column per prediction; colours are shares of the row."
    beginning = common_beginning(labels)
    if beginning:
        lead += f" Every class begins with {beginning}, which is left out."
    listed = _pairs(metrics, _MOST_CONFUSIONS)
    if metrics["confusion_pairs"]:
        listed = tag("details", tag("summary", "Most frequent confusions"), listed)
    wide = len(labels) >= _WIDE_FROM
    return section("Confusion", _matrix(labels, matrix), listed, name="confusion", wide=wide, lead=lead)


def _matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Piece:
    names = short_names(labels, _LONGEST_HEADING, without=common_beginning(labels))
    rows = []
    for at, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = []
        for place, count in enumerate(counts):
            share = count / total
            kind = ("right" if at == place else "wrong") + (" zero" if not count else " strong" if share > 0.55 else "")
            title = f"{labels[at]} taken for {labels[place]}: {count} of {total}"
            value = f"--v:{share**0.6:.2f}"
            cells.append(tag("td", str(count), class_=kind, style=value, title=title))
        rows.append(tag("tr", tag("th", names[at], scope="row", title=labels[at]), *cells))
    columns = (
        tag("th", tag("span", name), scope="col", title=label) for name, label in zip(names, labels, strict=True)
    )
    head = tag("tr", tag("td"), *columns)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll matrix", tabindex="0")


def _pairs(metrics: Mapping[str, Any], most: int) -> Piece:
    pairs = metrics["confusion_pairs"][:most]
    if not pairs:
        return tag("p", "No record is taken for another class.", class_="note")
    support = {row["label"]: row["support"] for row in metrics["per_class"]}
    rows = [(truth, told, number(count), percent(count / max(1, support[truth]))) for truth, told, count in pairs]
    written = table(("true class", "taken for", "records", "of the class"), rows, class_="words pairs")
    more = metrics["confusion_pairs_count"] - len(pairs)
    note = tag("p", f"{more:,} more pairs are in metrics.json.", class_="note") if more > 0 else None
    return tag("div", written, note)
