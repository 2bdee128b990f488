"""Renders the page: the verdict first, then sections; without scripts or external resources."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from finetune.monitoring.progress import format_duration
from finetune.monitoring.report import head, quality, records, run
from finetune.monitoring.report.confusion import confusion
from finetune.monitoring.report.markup import Html, join, number, percent, tag
from finetune.monitoring.report.verdict import evaluated_part, verdict

# Content security policy: no scripts and no external requests.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS = (
    run.findings,
    quality.curves,
    head.solved_head,
    confusion,
    quality.classes,
    quality.calibration,
    run.learning_rates,
    quality.mistakes,
    records.duplicates,
    records.unreadable_records,
    records.ignored_files,
    records.balance,
    run.layers,
    run.time,
    run.interruptions,
    run.request,
)


def page(report: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        report: Content of `report.json`.

    Returns:
        Self-contained HTML.
    """
    sections = [element for element in (render(report) for render in _SECTIONS) if element is not None]
    return html_document(
        report["title"],
        tag("div", _head(report), _tiles(report), _navigation(sections), class_="top"),
        tag("main", *sections),
        tag(
            "footer",
            "The data of this report: report.json. Predicted probabilities of every record: *_predictions.csv.",
        ),
    )


def html_document(title: str, *content: Html) -> str:
    """Build a self-contained document in the style of the report."""
    style = files(__package__ or "").joinpath("report.css").read_text("utf-8")
    page_head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return "<!doctype html>\n" + tag("html", page_head, tag("body", *content), lang="en") + "\n"


def _head(report: Mapping[str, Any]) -> Html:
    judgement = verdict(report)
    return join(
        [
            tag("p", report["title"], class_="overline"),
            tag("h1", judgement.headline, class_=f"verdict {judgement.kind}"),
            tag("p", " ".join(judgement.reasons), class_="lead"),
        ]
    )


def _tiles(report: Mapping[str, Any]) -> Html:
    part, metrics = evaluated_part(report)
    job = report["job"]
    tiles = []
    if metrics is not None:
        tiles += _scores(part, metrics)
        tiles.append((percent(metrics["expected_calibration_error"]), "calibration error"))
    tiles.append((number(sum(report["records"].values())), "records"))
    solution = job.get("head_solver")
    if solution and job["epochs"] == 1:
        tiles.append((f"{solution['strength']:.4g}", "regularization of the solved head"))
    elif "steps" in job:
        tiles.append((f"{job['epochs']:,}", f"epochs, {job['steps']:,} steps"))
    tiles.append((format_duration(report["cost"]["seconds"]), "time in the container"))
    tile_elements = (
        tag("div", tag("b", value), tag("span", name), class_="tile first" if index == 0 else "tile")
        for index, (value, name) in enumerate(tiles)
    )
    return tag("div", *tile_elements, class_="tiles")


def _scores(part: str, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    macro = (percent(metrics["macro"]["f1"]), "macro F1")
    if "micro" not in metrics:
        return [(percent(metrics["accuracy"]), f"accuracy on {part}"), macro]
    # Exact match says little for multi-label records, whose labels are rarely all correct.
    return [
        (percent(metrics["micro"]["f1"]), f"micro F1 on {part}"),
        macro,
        (percent(metrics["average_precision"]), "mean average precision"),
    ]


def _navigation(sections: list[Html]) -> Html:
    links = []
    for element in sections:
        name = element.split('id="', 1)[1].split('"', 1)[0]
        title = element.split("<h2>", 1)[1].split("</h2>", 1)[0]
        links.append(tag("a", Html(title), href=f"#{name}"))
    return tag("nav", *links, aria_label="sections")
