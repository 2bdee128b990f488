"""Report sections on the data: class balance, duplicates and leakage, unreadable records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.monitoring.report.markup import (
    Html,
    is_or_are,
    join,
    meter,
    number,
    pluralize,
    section,
    table,
    tag,
)

_MAX_ROWS = 50
_MAX_CLASSES = 100


def balance(report: Mapping[str, Any]) -> Html | None:
    """Render the number of records by class and part."""
    counts: Mapping[str, Mapping[str, int]] = report["classes"]
    if not counts:
        return None
    parts = list(counts)
    largest = {part: max(counts[part].values(), default=0) or 1 for part in parts}
    names = list(counts[parts[0]])
    shown_names = names
    if len(names) > _MAX_CLASSES:
        ordered = sorted(names, key=lambda name: counts[parts[0]][name])
        shown_names = [*ordered[: _MAX_CLASSES // 2], *ordered[-_MAX_CLASSES // 2 :]]
    rows = [
        (
            name,
            *(meter(counts[part].get(name, 0) / largest[part], number(counts[part].get(name, 0))) for part in parts),
        )
        for name in shown_names
    ]
    totals = ("all", *(number(report["records"][part]) for part in parts))
    return section(
        "Class balance",
        table(("class", *parts), [*rows, totals], class_="tall"),
        name="balance",
        lead=_lead(counts[parts[0]], report) + (_shown_note(len(shown_names), len(names))),
    )


def _shown_note(shown: int, classes: int) -> str:
    return f" Showing the {shown} smallest and largest of {classes:,} classes." if shown < classes else ""


def compensation_for_imbalance(effective: Mapping[str, Any]) -> str:
    """The hyperparameter in effect that compensates for classes of different sizes; empty if none does."""
    if isinstance(effective.get("class_weights"), dict):
        return "class_weights"
    settings = (("class_weights", "balanced"), ("loss", "logit_adjusted"), ("sampler", "balanced"))
    return next((f"{name}={value}" for name, value in settings if effective.get(name) == value), "")


def _lead(counts: Mapping[str, int], report: Mapping[str, Any]) -> str:
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] >= 5 * max(1, counts[least]):
        times = counts[most] / max(1, counts[least])
        text = f"{most} has {times:.0f} times as many records as {least}"
        if report["job"].get("strategy") == "evaluate" or not counts[least]:
            return f"{text}."
        if compensation := compensation_for_imbalance(report["asked"]["effective"]):
            return f"{text}; {compensation} compensates for the imbalance."
        return f"{text}: set class_weights=balanced to compensate for the imbalance."
    if counts[most] == counts[least]:
        return f"Every class has {counts[most]:,} records."
    return f"From {counts[least]:,} records ({least}) to {counts[most]:,} ({most})."


def duplicates(report: Mapping[str, Any]) -> Html:
    """Render duplicates within a part and across parts, where they are leakage."""
    listing = report["duplicates"]
    notices = []
    for leak in listing["leaks"]:
        first, second = leak["parts"]
        records = pluralize(leak["records"], "record")
        notices.append(
            notice(
                "bad",
                f"Leakage: {records} of {second} {is_or_are(leak['records'])} also in {first}",
                f"The model has been fitted to them, so the metrics of {second} are too optimistic.",
                f"Remove them from {first} or {second}; they are listed below and in report.json.",
            )
        )
    if listing["contradictions"]:
        notices.append(
            notice(
                "warn",
                pluralize(listing["contradictions"], "content has", "contents have") + " contradictory labels",
                "At most one label of each is correct.",
                "Correct or remove them.",
            )
        )
    if listing.get("unknown"):
        notices.append(notice("warn", "Duplicates were not checked", f"Reason: {listing['unknown']}.", None))
    elif not listing["groups"]:
        notices.append(notice("good", "No duplicates found", "Contents were compared byte by byte.", None))
    rows = [
        (
            group["records"][0]["key"],
            ", ".join(f"{record['part']}: {record['key']}" for record in group["records"][1:6]),
        )
        for group in listing["groups"][:_MAX_ROWS]
    ]
    groups = table(("record", "duplicates"), rows, class_="tall words") if rows else None
    more = (
        tag("p", f"Showing {len(rows)} of {listing['count']:,}.", class_="note")
        if listing["count"] > len(rows)
        else None
    )
    return section("Duplicates and leakage", *notices, groups, more, name="duplicates")


def unreadable_records(report: Mapping[str, Any]) -> Html:
    """Render unreadable records with the reasons."""
    rows = [(key, channel, reason) for channel, listing in report["bad_records"].items() for key, reason in listing]
    if not rows:
        body = notice("good", "All records are readable", "No record was skipped.", None)
    else:
        shown = table(("record", "channel", "reason"), rows[:_MAX_ROWS], class_="tall words")
        body = join(
            [
                notice(
                    "warn",
                    pluralize(len(rows), "record was", "records were") + " skipped",
                    "Unreadable records are not included in any metric.",
                    "Repair or remove them.",
                ),
                shown,
            ]
        )
    return section("Unreadable records", body, name="bad")


def ignored_files(report: Mapping[str, Any]) -> Html | None:
    """Render ignored files of image channels by class and extension."""
    channels: Mapping[str, Mapping[str, Mapping[str, int]]] = report.get("left_out_files", {})
    rows = [
        (channel, folder or "(no class folder)", number(sum(counts.values())), _endings(counts))
        for channel, folders in channels.items()
        for folder, counts in folders.items()
    ]
    if not rows:
        return None
    total = sum(sum(counts.values()) for folders in channels.values() for counts in folders.values())
    return section(
        "Ignored files",
        notice(
            "warn",
            pluralize(total, "file was", "files were") + " ignored",
            "They are not readable images, so the job did not use them.",
            "Convert them to JPEG or PNG if they are images, or remove them.",
        ),
        table(("channel", "class", "files", "types"), rows[:_MAX_ROWS], class_="tall words"),
        name="left-out",
    )


def _endings(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {ending}" for ending, count in sorted(counts.items(), key=lambda item: -item[1]))


def notice(kind: str, title: str, text: str, next_step: str | None) -> Html:
    """Build a notice of kind `good`, `warn` or `bad`, with a title, an observation and a next step."""
    return tag(
        "div",
        tag("b", title),
        tag("p", text),
        tag("p", "Next: ", next_step, class_="next") if next_step else None,
        class_=f"notice {kind}",
    )
