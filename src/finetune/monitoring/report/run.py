"""Report sections on the run: time, findings of the rules, interruptions, layers, and the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.monitoring.progress import format_duration
from finetune.monitoring.report.charts import Axes, Line, line_chart, stacked_bar
from finetune.monitoring.report.markup import (
    DASH,
    Html,
    facts,
    format_count,
    format_small,
    join,
    meter,
    number,
    percent,
    pluralize,
    section,
    table,
    tag,
)
from finetune.monitoring.report.records import notice
from finetune.monitoring.report.verdict import verdict

PART_LABELS = {
    "start": "start-up, including the first step",
    "data": "waiting for data",
    "exchange": "waiting for other processes",
    "forward": "forward",
    "backward": "backward",
    "update": "optimizer step",
    "save": "waiting for checkpoints",
    "evaluate": "evaluation after each epoch",
    "rest": "final evaluation, export and other",
}
_MAX_CURVES = 8
_MAX_SHOWN = 6


def findings(report: Mapping[str, Any]) -> Html:
    """Render the findings of the rules, each with a next step; resolved ones come last."""
    results: Sequence[Mapping[str, Any]] = [*report["findings"], *report["machine_findings"]]
    notices = [_finding(finding) for finding in sorted(results, key=lambda finding: bool(finding.get("resolved")))]
    if report.get("failure"):
        notices.insert(0, notice("bad", "The job failed", report["failure"], None))
    if all(finding.get("resolved") for finding in results) and not report.get("failure"):
        notices.insert(0, _no_findings(report))
    non_finite: Mapping[str, str] = report.get("not_finite", {})
    if non_finite:
        values = ", ".join(f"{path} is {reason}" for path, reason in list(non_finite.items())[:_MAX_SHOWN])
        notices.append(
            notice("warn", pluralize(len(non_finite), "number is", "numbers are") + " not finite", values, None)
        )
    return section("Rule findings", *notices, _rule_names(report["rules"]), name="rules", wide=True)


def _finding(finding: Mapping[str, Any]) -> Html:
    title = finding["rule"] + (f", step {finding['step']:,}" if finding.get("step") is not None else "")
    observation = f"{finding['seen']} ({finding['where']})" if finding.get("where") else finding["seen"]
    if finding.get("resolved"):
        return notice("quiet", f"{title}: resolved", f"{observation}; {finding['resolved']}.", None)
    return notice("bad" if finding.get("grave") else "warn", title, observation, finding["advice"])


def _no_findings(report: Mapping[str, Any]) -> Html:
    """Render the notice for a job without findings, consistent with the verdict."""
    rules = report["rules"]
    text = f"No issues found by {pluralize(len(rules), 'rule')}." if rules else "No rules are enabled."
    judgement = verdict(report)
    if judgement.kind == "good":
        return notice("good", "No findings", text, None)
    return notice(judgement.kind, judgement.headline, f"{text} {' '.join(judgement.reasons)}", None)


def _rule_names(rules: Sequence[str]) -> Html | None:
    if not rules:
        return None
    names = tag("p", ", ".join(rules), class_="note")
    return tag("details", tag("summary", "Rule names"), names)


def time(report: Mapping[str, Any]) -> Html:
    """Render the time by part."""
    parts: Mapping[str, float] = report["time"]["parts"]
    total = sum(parts.values()) or 1.0
    rows = [
        (
            join([tag("i", class_=f"c{index % 8}"), PART_LABELS.get(name, name)]),
            format_duration(value),
            percent(value / total),
        )
        for index, (name, value) in enumerate(parts.items())
    ]
    throughput = number(report["time"].get("records_per_second"), 0)
    lead = f"{format_duration(total)} in total; {throughput} records/s in training."
    return section("Time by part", stacked_bar(parts), table(("part", "time", "share"), rows), name="time", lead=lead)


def layers(report: Mapping[str, Any]) -> Html | None:
    """Render trainable groups, their learning rates, and each group's relative change from its initial weights."""
    groups: Sequence[Mapping[str, Any]] = report["plan"]["groups"]
    if not groups:
        return None
    drifts = [group["drift"] for group in groups if isinstance(group.get("drift"), float)]
    largest_drift = max(drifts, default=0.0) or 1.0
    rows = []
    for group in groups:
        drift, learning_rate = group.get("drift"), group.get("rate")
        change = meter(drift / largest_drift, percent(drift, 2)) if isinstance(drift, float) else "frozen"
        first_epoch = f"epoch {group['first_epoch'] + 1}" if group.get("first_epoch") is not None else DASH
        rows.append(
            (
                group["name"],
                format_count(group["parameters"]),
                format_small(learning_rate) if learning_rate else DASH,
                first_epoch,
                change,
            )
        )
    header = ("layer group", "parameters", "peak learning rate", "trainable from", "drift")
    return section(
        "Layers and drift",
        table(header, rows, class_="tall"),
        _forgetting(report.get("forgetting")),
        name="layers",
        lead="Drift is the relative change of the weights (‖w - w₀‖ / ‖w₀‖).",
    )


def _forgetting(forgetting: Mapping[str, Any] | None) -> Html | None:
    if not forgetting:
        return None
    change = forgetting["after"] - forgetting["before"]
    outcome = "lost" if change < 0 else "gained" if change > 0 else "unchanged"
    records = pluralize(forgetting["records"], "record")
    text = (
        f"Accuracy of the source model's head on {records} of {forgetting['part']} with its classes:"
        f" {percent(forgetting['before'])} before training, {percent(forgetting['after'])} after training."
    )
    points = f" {abs(100 * change):.1f} points" if change else ""
    return join(
        [
            tag("h3", "Forgetting"),
            notice("warn" if change < 0 else "good", outcome.capitalize() + points, text, None),
        ]
    )


def learning_rates(report: Mapping[str, Any]) -> Html | None:
    """Render the learning rate of every group by step."""
    curves: Mapping[str, Sequence[float | None]] = report["rates"]["groups"]
    if not curves:
        return None
    names = _evenly_spaced(list(curves))
    lines = [Line(name, report["rates"]["steps"], curves[name]) for name in names]
    chart = line_chart(lines, Axes("step", "learning rate", (0.0,)))
    note = f"Showing {len(names)} of {len(curves)} layer groups." if len(names) < len(curves) else None
    return section("Learning rates", chart, name="rates", lead=note)


def _evenly_spaced(names: list[str]) -> list[str]:
    if len(names) <= _MAX_CURVES:
        return names
    return [names[round(index * (len(names) - 1) / (_MAX_CURVES - 1))] for index in range(_MAX_CURVES)]


def interruptions(report: Mapping[str, Any]) -> Html:
    """Render the number of starts, the cost of interruptions and the price of the job."""
    history = report["interruptions"]
    starts = history.get("starts", 0)
    cost = report["cost"]
    pairs = [
        ("starts", number(max(1, starts))),
        ("steps repeated", number(history.get("steps_repeated", 0))),
        ("loading checkpoints", format_duration(history.get("load_seconds", 0.0))),
        ("steps waiting for checkpoints", format_duration(history.get("stall_seconds", 0.0))),
        ("writing checkpoints in the background", format_duration(history.get("save_seconds", 0.0))),
        ("seconds in the container", ("at least " if starts > 1 else "") + number(cost["seconds"], 0)),
    ]
    if cost.get("price") is not None:
        pairs.append(("cost", f"{cost['price']:,.4f} at {cost['price_per_hour']:g} per hour"))
    text = "The job was not interrupted."
    if starts > 1:
        times = "once" if starts == 2 else f"{starts - 1} times"
        text = (
            f"The job was interrupted {times}. For a killed start, the time after its last update of the statistics is"
            " not included."
        )
    return section("Interruptions and cost", facts(pairs), name="interruptions", lead=text)


def request(report: Mapping[str, Any]) -> Html:
    """Render the request, its effective settings and the versions used."""
    requested = report["asked"]
    hyperparameters = [(name, tag("code", str(value))) for name, value in requested["hyperparameters"].items()]
    notes = tag("ul", *(tag("li", note) for note in requested["notes"])) if requested["notes"] else None
    set_by_user = (
        facts(hyperparameters, compact=True)
        if hyperparameters
        else tag("p", "None; all hyperparameters have their defaults.", class_="note")
    )
    effective = [(name, tag("code", str(value))) for name, value in requested["effective"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    return section(
        "Configuration",
        facts([(name, str(value)) for name, value in report["plan"]["facts"].items()]),
        tag("h3", "Hyperparameters set for this job"),
        set_by_user,
        notes,
        tag(
            "details",
            tag("summary", "All hyperparameters, including defaults"),
            table(("hyperparameter", "value"), effective, class_="words tall"),
        ),
        tag("p", versions, class_="note"),
        name="request",
        wide=True,
    )
