"""The page as a whole: a verdict first, then sections; no script, and nothing that is not in the file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from finetune.observe.report import quality, records, run
from finetune.observe.report.markup import Piece, joined, number, percent, seconds, tag

# A browser obeys this: no script runs, and no request leaves the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS = (
    run.findings,
    quality.curves,
    quality.confusion,
    quality.classes,
    quality.calibration,
    run.rates,
    quality.wrong,
    records.duplicates,
    records.bad,
    records.balance,
    run.layers,
    run.time,
    run.interruptions,
    run.request,
)


def page(report: Mapping[str, Any]) -> str:
    """Draw the page.

    Args:
        report: what `report.json` holds.

    Returns:
        HTML, complete in itself.
    """
    made = [one for one in (make(report) for make in _SECTIONS) if one is not None]
    style = files(__package__ or "").joinpath("report.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", report["title"]),
        tag("style", Piece(style)),
    )
    body = tag(
        "body",
        tag("div", _head(report), _tiles(report), _navigation(made), class_="top"),
        tag("main", *made),
        tag("footer", "The same as data: report.json. Every probability: *_predictions.csv."),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _head(report: Mapping[str, Any]) -> Piece:
    return joined([tag("h1", report["title"]), tag("p", _verdict(report), class_="lead")])


def _verdict(report: Mapping[str, Any]) -> str:
    part, metrics = quality.judged(report)
    if report.get("failure"):
        return f"The job failed, and there is no model: {report['failure']}"
    if metrics is None:
        return "The job stopped before its evaluation; the model is exported as far as it came."
    accuracy, guess = metrics["accuracy"], metrics["majority_baseline_accuracy"]
    said = (
        f"{percent(accuracy)} of {metrics['records']:,} records of {part} are right;"
        f" always naming the commonest class would give {percent(guess)}."
    )
    graves = [one["rule"] for one in [*report["findings"], *report["machine_findings"]]]
    if report["duplicates"]["leaks"]:
        return f"{said} Records of {part} or validation were in train, so the truth is lower."
    if graves:
        return f"{said} The rules have {len(graves)} {'remark' if len(graves) == 1 else 'remarks'}."
    return said


def _tiles(report: Mapping[str, Any]) -> Piece:
    part, metrics = quality.judged(report)
    job = report["job"]
    tiles = []
    if metrics is not None:
        tiles += [
            (percent(metrics["accuracy"]), f"accuracy on {part}"),
            (percent(metrics["macro"]["f1"]), "F1, mean of classes"),
        ]
        tiles.append((percent(metrics["expected_calibration_error"]), "calibration error"))
    tiles.append((number(sum(report["records"].values())), "records"))
    if "steps" in job:
        tiles.append((f"{job['epochs']:,}", f"epochs, {job['steps']:,} steps"))
    tiles.append((seconds(report["cost"]["seconds"]), "in the container"))
    drawn = (
        tag("div", tag("b", value), tag("span", name), class_="tile first" if index == 0 else "tile")
        for index, (value, name) in enumerate(tiles)
    )
    return tag("div", *drawn, class_="tiles")


def _navigation(made: list[Piece]) -> Piece:
    links = []
    for one in made:
        name = one.split('id="', 1)[1].split('"', 1)[0]
        title = one.split("<h2>", 1)[1].split("</h2>", 1)[0]
        links.append(tag("a", Piece(title), href=f"#{name}"))
    return tag("nav", *links, aria_label="sections")
