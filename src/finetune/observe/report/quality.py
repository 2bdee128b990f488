"""The sections about how good the model is: curves, classes, confusions, calibration, and where it is surely wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.observe.report.charts import Axes, Line, line_chart, reliability
from finetune.observe.report.markup import (
    Piece,
    are,
    counted,
    facts,
    joined,
    meter,
    number,
    percent,
    section,
    table,
    tag,
)

MOST_CLASSES_AS_MATRIX = 24
_MOST_CONFUSIONS = 12


def curves(report: Mapping[str, Any]) -> Piece | None:
    """Loss and accuracy of every epoch."""
    rows: Sequence[Mapping[str, float]] = report["history"]
    if not rows:
        return None
    epochs = list(range(1, len(rows) + 1))
    charts = []
    for what, contains in (("loss", (0.0,)), ("accuracy", (1.0,))):
        names = [part for part in ("train", "validation") if any(f"{part}:{what}" in row for row in rows)]
        lines = [Line(part, epochs, [row.get(f"{part}:{what}") for row in rows]) for part in names]
        charts.append(tag("div", tag("h3", what.capitalize()), line_chart(lines, Axes("epoch", what, contains))))
    best = report["job"].get("best_epoch")
    lead = f"Best on validation: epoch {best} of {len(rows)}." if best else None
    return section("Learning curves", tag("div", *charts, class_="columns"), name="curves", wide=True, lead=lead)


def classes(report: Mapping[str, Any]) -> Piece | None:
    """Precision, recall and F1 of every class."""
    part, metrics = judged(report)
    if metrics is None:
        return None
    rows = [
        (
            str(row["label"]),
            number(row["support"]),
            *(meter(row[name] or 0.0, percent(row[name])) for name in ("precision", "recall", "f1")),
            number(row["auc"]),
        )
        for row in sorted(metrics["per_class"], key=lambda row: row["f1"] if row["f1"] is not None else 2.0)
    ]
    averages = [
        (name, "", *(percent(metrics[kind][quality]) for quality in ("precision", "recall", "f1")), "")
        for kind, name in (("macro", "mean"), ("weighted", "by records"))
    ]
    header = ("class", "records", "precision", "recall", "F1", "AUC")
    return section(
        "Classes",
        table(header, [*rows, *averages], class_="tall"),
        name="classes",
        lead=f"On {part}, the weakest class first.",
    )


def confusion(report: Mapping[str, Any]) -> Piece | None:
    """What is taken for what."""
    part, metrics = judged(report)
    if metrics is None or "confusion_matrix" not in metrics:
        return None
    labels, matrix = metrics["labels"], metrics["confusion_matrix"]
    drawn = _matrix(labels, matrix) if len(labels) <= MOST_CLASSES_AS_MATRIX else None
    return section(
        "Confusion",
        drawn,
        _pairs(labels, matrix),
        name="confusion",
        lead=f"On {part}: a row per true class, a column per prediction; colours are shares of the row.",
    )


def _matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Piece:
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
        rows.append(tag("tr", tag("th", labels[at], scope="row"), *cells))
    head = tag("tr", tag("td"), *(tag("th", name, scope="col", title=name) for name in labels))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll matrix", tabindex="0")


def _pairs(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Piece | None:
    pairs = sorted(
        (
            (count, at, place)
            for at, row in enumerate(matrix)
            for place, count in enumerate(row)
            if count and at != place
        ),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )[:_MOST_CONFUSIONS]
    if not pairs:
        return tag("p", "No record is taken for another class.", class_="note")
    rows = [(labels[at], labels[place], number(count), percent(count / sum(matrix[at]))) for count, at, place in pairs]
    written = table(("true class", "taken for", "records", "of the class"), rows)
    return tag("details", tag("summary", "The commonest confusions"), written)


def calibration(report: Mapping[str, Any]) -> Piece | None:
    """Whether stated probabilities come true."""
    part, metrics = judged(report)
    if metrics is None or not metrics.get("calibration"):
        return None
    rows, error = metrics["calibration"], metrics["expected_calibration_error"]
    stated = sum(row["confidence"] * row["answers"] for row in rows) / sum(row["answers"] for row in rows)
    came = sum(row["accuracy"] * row["answers"] for row in rows) / sum(row["answers"] for row in rows)
    if error < 0.05:
        said = "Probabilities can be taken at their word."
    elif stated > came:
        said = "The model is surer than it should be: label_smoothing=0.1 lowers that."
    else:
        said = "The model is less sure than it could be: train longer, or with less label_smoothing."
    return section(
        "Calibration",
        reliability(rows),
        facts([("expected calibration error", percent(error)), ("log loss", number(metrics["log_loss"]))]),
        name="calibration",
        lead=f"On {part}: of the answers with a stated probability, how many came true. {said}",
    )


def wrong(report: Mapping[str, Any]) -> Piece | None:
    """The records about which the model is most certainly wrong."""
    found = report["wrong"]
    if not found["records"]:
        return None
    kind = "gallery texts" if any(record.get("text") is not None for record in found["records"]) else "gallery"
    return section(
        "Most certainly wrong",
        tag("div", *(_record(record) for record in found["records"]), class_=kind),
        name="wrong",
        wide=True,
        lead=f"{found['count']:,} of {counted(found['of'], 'record')} of {found['part']} {are(found['count'])} wrong."
        " These are the surest ones: often their labels are wrong, rather than the model.",
    )


def _record(record: Mapping[str, Any]) -> Piece:
    if record.get("image"):
        shown = tag("img", src=record["image"], alt=f"record {record['key']}")
    else:
        shown = tag("blockquote", record.get("text") or "")
    said = joined(
        [tag("strong", record["predicted"]), f" {percent(record['probability'], 0)}", tag("br"), "is ", record["truth"]]
    )
    return tag("article", shown, tag("div", said, tag("small", record["key"], title=record["key"])), class_="record")


def judged(report: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """The part by which the model is judged: test where there is one, else validation."""
    for part in ("test", "validation", "train"):
        if part in report["parts"]:
            return part, report["parts"][part]
    return "", None
