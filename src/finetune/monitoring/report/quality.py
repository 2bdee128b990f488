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
from finetune.monitoring.score import METRIC_LABELS

_MAX_CLASSES = 100
"""Maximum rows of the table of classes; beyond it, only the weakest are shown."""
_MAX_TEXT_LENGTH = 250
_MAX_NAME_LENGTH = 24


def curves(report: Mapping[str, Any]) -> Html | None:
    """Render loss and score by epoch; `None` without epochs."""
    rows: Sequence[Mapping[str, float]] = report["history"]
    if not rows or ("head_solver" in report["job"] and len(rows) == 1):
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


def _exported(job: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> str:
    """Describe which epoch's weights are exported, and the best or the last epoch if that is another one."""
    exported, best, metric = job.get("exported_epoch"), job.get("best_epoch"), job.get("best_metric") or "accuracy"
    if not exported and "head_solver" in job:
        weights = job["exported_weights"]
        values = _values(job.get("averages", {}).get(weights, rows[0]), metric)
        return f"Exported: {weights}, validation {values}. Epoch 1 is the solved head with {_values(rows[0], metric)}."
    if not exported:
        return "Exported: the weights of the last step, within an epoch."
    if not best or any("validation:loss" not in row for row in rows):
        return f"Exported: epoch {exported} of {len(rows)}, the last epoch; there are no validation records."
    text = f"Exported: epoch {exported} of {len(rows)} by validation {_values(rows[exported - 1], metric)}"
    if exported != best:
        return f"{text}, the last epoch. Best: epoch {best} with {_values(rows[best - 1], metric)} (best_metric)."
    if best == len(rows):
        return f"{text}, the last epoch."
    return f"{text}. Last: epoch {len(rows)} with {_values(rows[-1], metric)}."


def _values(row: Mapping[str, float], metric: str) -> str:
    """Format the metric that determines the best epoch, and the loss."""
    value, loss = row.get(f"validation:{metric}"), f"loss {number(row['validation:loss'])}"
    return loss if metric == "loss" or value is None else f"{METRIC_LABELS[metric]} {percent(value)}, {loss}"


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
