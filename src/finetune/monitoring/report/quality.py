"""Report sections on model quality: curves, classes, calibration and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.monitoring.report.charts import Axes, Line, line_chart, reliability_diagram
from finetune.monitoring.report.markup import (
    Html,
    facts,
    is_or_are,
    join,
    meter,
    number,
    percent,
    pluralize,
    section,
    table,
    tag,
)
from finetune.monitoring.report.names import short_names
from finetune.monitoring.report.verdict import evaluated_part
from finetune.monitoring.rules.curves import patience_for_best
from finetune.monitoring.score import score_of

_MAX_CLASSES = 100
"""Maximum rows of the table of classes; beyond it, only the weakest are shown."""
_MAX_TEXT_LENGTH = 250
_MAX_NAME_LENGTH = 24


def curves(report: Mapping[str, Any]) -> Html | None:
    """Render loss and score by epoch."""
    rows: Sequence[Mapping[str, float]] = report["history"]
    if not rows:
        return None
    epochs = list(range(1, len(rows) + 1))
    charts = []
    has_f1 = any("train:micro_f1" in row for row in rows)
    for metric, title, contains in (
        ("loss", "Loss", (0.0,)),
        ("micro_f1", "Micro F1", (1.0,)) if has_f1 else ("accuracy", "Accuracy", (1.0,)),
    ):
        names = [part for part in ("train", "validation") if any(f"{part}:{metric}" in row for row in rows)]
        lines = [Line(part, epochs, [row.get(f"{part}:{metric}") for row in rows]) for part in names]
        axes = Axes("epoch", "F1" if metric == "micro_f1" else metric, contains)
        charts.append(tag("div", tag("h3", title), line_chart(lines, axes)))
    columns = tag("div", *charts, class_="columns")
    return section("Learning curves", columns, name="curves", wide=True, lead=_exported(report["job"], rows))


def _exported(job: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> str | None:
    """Describe which epoch's weights are exported and which epoch was the best."""
    exported, best = job.get("exported_epoch"), job.get("best_epoch")
    if not exported:
        return "Exported: the weights of the last step, within an epoch."
    if not best or any("validation:loss" not in row for row in rows):
        return f"Exported: epoch {exported}, the last epoch."
    scores = {epoch: score_of(rows[epoch - 1], "validation") for epoch in (exported, best)}
    if exported == best:
        return f"Exported: epoch {exported} ({percent(scores[exported])} on validation), the best epoch."
    text = f"Exported: epoch {exported} ({percent(scores[exported])})."
    text += f" Best: epoch {best} ({percent(scores[best])})"
    if scores[exported] == scores[best]:
        losses = [number(rows[epoch - 1]["validation:loss"]) for epoch in (best, exported)]
        text += f" with a lower validation loss ({losses[0]} instead of {losses[1]})"
    return f"{text}. early_stopping_patience={patience_for_best(rows)} would have exported it."


def classes(report: Mapping[str, Any]) -> Html | None:
    """Render precision, recall and F1 of every class."""
    part, metrics = evaluated_part(report)
    if metrics is None:
        return None
    weakest = sorted(metrics["per_class"], key=lambda row: row["f1"] if row["f1"] is not None else 2.0)
    labels = [str(row["label"]) for row in weakest[:_MAX_CLASSES]]
    rows = [
        (
            tag("span", name, title=label),
            number(row["support"]),
            *(meter(row[name] or 0.0, percent(row[name])) for name in ("precision", "recall", "f1")),
            number(row["auc"]),
        )
        for name, label, row in zip(short_names(labels, _MAX_NAME_LENGTH), labels, weakest, strict=False)
    ]
    averages = [
        (name, "", *(percent(metrics[kind][quality]) for quality in ("precision", "recall", "f1")), "")
        for kind, name in (("macro", "macro average"), ("weighted", "weighted average"))
    ]
    header = ("class", "records", "precision", "recall", "F1", "AUC")
    lead = f"On {part}, sorted by F1 in ascending order."
    if len(weakest) > len(rows):
        lead = f"On {part}: the {len(rows)} of {len(weakest):,} classes with the lowest F1; all are in metrics.json."
    return section("Classes", table(header, [*rows, *averages], class_="tall"), name="classes", lead=lead)


def calibration(report: Mapping[str, Any]) -> Html | None:
    """Render the calibration of predicted probabilities."""
    part, metrics = evaluated_part(report)
    if metrics is None or not metrics.get("calibration"):
        return None
    rows, error = metrics["calibration"], metrics["expected_calibration_error"]
    mean_confidence = sum(row["confidence"] * row["answers"] for row in rows) / sum(row["answers"] for row in rows)
    mean_accuracy = sum(row["accuracy"] * row["answers"] for row in rows) / sum(row["answers"] for row in rows)
    if error < 0.05:
        assessment = "The model is well calibrated."
    elif mean_confidence > mean_accuracy:
        assessment = "The model is overconfident" + _advice(report, overconfident=True)
    else:
        assessment = "The model is underconfident" + _advice(report, overconfident=False)
    return section(
        "Calibration",
        reliability_diagram(rows),
        facts([("expected calibration error", percent(error)), ("log loss", number(metrics["log_loss"]))]),
        name="calibration",
        lead=f"On {part}: accuracy by predicted probability. {assessment}",
    )


def _advice(report: Mapping[str, Any], *, overconfident: bool) -> str:
    """Return advice to improve calibration in this job, to follow a colon."""
    effective = report["asked"]["effective"]
    smoothing = effective.get("label_smoothing", 0.0)
    if report["job"].get("strategy") == "evaluate":
        return "."
    if overconfident:
        return f": set label_smoothing={smoothing + 0.1:.2g}." if smoothing < 0.3 else "."
    if smoothing > 0:
        return ": set label_smoothing=0."
    return f": train longer (epochs={2 * effective['epochs']})." if "epochs" in effective else "."


def mistakes(report: Mapping[str, Any]) -> Html | None:
    """Render the most confident mistakes."""
    listing = report["wrong"]
    if not listing["records"]:
        return None
    kind = "gallery texts" if any(record.get("text") is not None for record in listing["records"]) else "gallery"
    return section(
        "Most confident mistakes",
        tag("div", *(_record(record) for record in listing["records"]), class_=kind),
        name="wrong",
        wide=True,
        lead=f"{listing['count']:,} of {pluralize(listing['of'], 'record')} of {listing['part']}"
        f" {is_or_are(listing['count'])} misclassified."
        " The most confident mistakes are often caused by wrong labels.",
    )


def _record(record: Mapping[str, Any]) -> Html:
    if record.get("image"):
        content = tag("img", src=record["image"], alt=f"record {record['key']}")
    else:
        content = tag("blockquote", _truncate(record.get("text") or ""))
    predicted = tag("span", "predicted ", tag("strong", record["predicted"]), title=record["predicted"], class_="name")
    label = tag("span", "labeled ", record["truth"], title=record["truth"], class_="name")
    caption = join([predicted, tag("span", percent(record["probability"], 0), class_="sure"), label])
    return tag(
        "article", content, tag("div", caption, tag("small", record["key"], title=record["key"])), class_="record"
    )


def _truncate(text: str) -> str:
    """Truncate a text between words."""
    if len(text) <= _MAX_TEXT_LENGTH:
        return text
    return text[:_MAX_TEXT_LENGTH].rsplit(maxsplit=1)[0] + " …"
