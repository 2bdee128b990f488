"""Report sections on the run: time, findings of the rules, interruptions, layers, and the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.monitoring.report.charts import Axes, Line, line_chart, stacked
from finetune.monitoring.report.markup import (
    DASH,
    Piece,
    counted,
    facts,
    joined,
    meter,
    number,
    percent,
    seconds,
    section,
    short,
    small,
    table,
    tag,
)
from finetune.monitoring.report.records import notice
from finetune.monitoring.report.verdict import verdict

WORDS = {
    "start": "start-up, first step included",
    "data": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "update": "update of the weights",
    "save": "waiting for checkpoints",
    "evaluate": "evaluation after each epoch",
    "rest": "final evaluation, export, all else",
}
_MOST_CURVES = 8
_MOST_PLACES = 6


def findings(report: Mapping[str, Any]) -> Piece:
    """Render the findings of the rules, each with a next step; resolved ones come last."""
    found: Sequence[Mapping[str, Any]] = [*report["findings"], *report["machine_findings"]]
    notices = [_finding(one) for one in sorted(found, key=lambda one: bool(one.get("resolved")))]
    if report.get("failure"):
        notices.insert(0, notice("bad", "The job failed", report["failure"], None))
    if all(one.get("resolved") for one in found) and not report.get("failure"):
        notices.insert(0, _nothing_found(report))
    unusable: Mapping[str, str] = report.get("not_finite", {})
    if unusable:
        places = ", ".join(f"{place} is {what}" for place, what in list(unusable.items())[:_MOST_PLACES])
        notices.append(notice("warn", counted(len(unusable), "number is", "numbers are") + " not finite", places, None))
    return section("What the rules found", *notices, _watched(report["rules"]), name="rules", wide=True)


def _finding(one: Mapping[str, Any]) -> Piece:
    title = one["rule"] + (f", step {one['step']:,}" if one.get("step") is not None else "")
    seen = f"{one['seen']} ({one['where']})" if one.get("where") else one["seen"]
    if one.get("resolved"):
        return notice("quiet", f"{title}: resolved", f"{seen}; {one['resolved']}.", None)
    return notice("bad" if one.get("grave") else "warn", title, seen, one["advice"])


def _nothing_found(report: Mapping[str, Any]) -> Piece:
    """Render the notice for a job without findings, consistent with the verdict."""
    watched = report["rules"]
    said = f"No issues found by {counted(len(watched), 'rule')}." if watched else "No rule was asked for."
    whole = verdict(report)
    if whole.kind == "good":
        return notice("good", "Nothing found", said, None)
    return notice(whole.kind, whole.headline, f"{said} {' '.join(whole.reasons)}", None)


def _watched(rules: Sequence[str]) -> Piece | None:
    if not rules:
        return None
    names = tag("p", ", ".join(rules), class_="note")
    return tag("details", tag("summary", "Their names"), names)


def time(report: Mapping[str, Any]) -> Piece:
    """Render the time by part."""
    parts: Mapping[str, float] = report["time"]["parts"]
    total = sum(parts.values()) or 1.0
    rows = [
        (joined([tag("i", class_=f"c{index % 8}"), WORDS.get(name, name)]), seconds(value), percent(value / total))
        for index, (name, value) in enumerate(parts.items())
    ]
    lead = (
        f"{seconds(total)} in all, {number(report['time'].get('records_per_second'), 0)} records a second in training."
    )
    return section(
        "Where the time went", stacked(parts), table(("part", "time", "share"), rows), name="time", lead=lead
    )


def layers(report: Mapping[str, Any]) -> Piece | None:
    """Render trainable groups, their learning rates, and each group's relative change from its initial weights."""
    groups: Sequence[Mapping[str, Any]] = report["plan"]["groups"]
    if not groups:
        return None
    drifts = [group["drift"] for group in groups if isinstance(group.get("drift"), float)]
    most = max(drifts, default=0.0) or 1.0
    rows = []
    for group in groups:
        drift, rate = group.get("drift"), group.get("rate")
        moved = meter(drift / most, percent(drift, 2)) if isinstance(drift, float) else "frozen"
        since = f"epoch {group['first_epoch'] + 1}" if group.get("first_epoch") is not None else DASH
        rows.append((group["name"], short(group["parameters"]), small(rate) if rate else DASH, since, moved))
    header = ("layers", "parameters", "highest rate", "from", "drift")
    return section(
        "Layers and drift",
        table(header, rows, class_="tall"),
        _forgetting(report.get("forgetting")),
        name="layers",
        lead="Drift is the length of the way that the weights went, as a share of the weights they began with.",
    )


def _forgetting(found: Mapping[str, Any] | None) -> Piece | None:
    if not found:
        return None
    change = found["after"] - found["before"]
    what = "lost" if change < 0 else "gained" if change > 0 else "neither lost nor gained"
    said = (
        f"The given network's own head was right on {percent(found['before'])} of {counted(found['records'], 'record')}"
        f" of {found['part']} that are of its classes, and is on {percent(found['after'])} after training."
    )
    points = f" {abs(100 * change):.1f} points" if change else ""
    return joined(
        [
            tag("h3", "What it knew before"),
            notice("warn" if change < 0 else "good", what.capitalize() + points, said, None),
        ]
    )


def rates(report: Mapping[str, Any]) -> Piece | None:
    """Render the learning rate of every group by step."""
    curves: Mapping[str, Sequence[float | None]] = report["rates"]["groups"]
    if not curves:
        return None
    names = _spread(list(curves))
    lines = [Line(name, report["rates"]["steps"], curves[name]) for name in names]
    drawn = line_chart(lines, Axes("step", "learning rate", (0.0,)))
    shown = f"{len(names)} of {len(curves)} groups are drawn." if len(names) < len(curves) else None
    return section("Learning rates", drawn, name="rates", lead=shown)


def _spread(names: list[str]) -> list[str]:
    if len(names) <= _MOST_CURVES:
        return names
    return [names[round(index * (len(names) - 1) / (_MOST_CURVES - 1))] for index in range(_MOST_CURVES)]


def interruptions(report: Mapping[str, Any]) -> Piece:
    """Render the number of starts, the cost of interruptions and the price of the job."""
    account = report["interruptions"]
    starts = account.get("starts", 0)
    cost = report["cost"]
    pairs = [
        ("starts", number(max(1, starts))),
        ("steps repeated", number(account.get("steps_repeated", 0))),
        ("reading checkpoints", seconds(account.get("load_seconds", 0.0))),
        ("steps waited for copies", seconds(account.get("stall_seconds", 0.0))),
        ("writing beside training", seconds(account.get("save_seconds", 0.0))),
        ("seconds in the container", ("at least " if starts > 1 else "") + number(cost["seconds"], 0)),
    ]
    if cost.get("price") is not None:
        pairs.append(("cost at the given price", f"{cost['price']:,.4f} for {cost['price_per_hour']:g} an hour"))
    said = "The job ran through."
    if starts > 1:
        times = "once" if starts == 2 else f"{starts - 1} times"
        said = (
            f"The job was interrupted {times}. A start that was killed counts up to the last second that it could tell"
            " of; what it did after that is not known."
        )
    return section("Interruptions and cost", facts(pairs), name="interruptions", lead=said)


def request(report: Mapping[str, Any]) -> Piece:
    """Render the request, its effective settings and the versions used."""
    asked = report["asked"]
    given = [(name, tag("code", str(value))) for name, value in asked["hyperparameters"].items()]
    notes = tag("ul", *(tag("li", note) for note in asked["notes"])) if asked["notes"] else None
    chosen = facts(given, small=True) if given else tag("p", "Every default.", class_="note")
    effective = [(name, tag("code", str(value))) for name, value in asked["effective"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    return section(
        "What was asked and done",
        facts([(name, str(value)) for name, value in report["plan"]["facts"].items()]),
        tag("h3", "Given hyperparameters"),
        chosen,
        notes,
        tag(
            "details",
            tag("summary", "Every hyperparameter, defaults included"),
            table(("hyperparameter", "value"), effective, class_="words tall"),
        ),
        tag("p", versions, class_="note"),
        name="request",
        wide=True,
    )
