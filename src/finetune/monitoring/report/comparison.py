"""Renders a page that compares jobs: their results in a table, differing hyperparameters, and overlaid curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.monitoring.report.charts import Axes, Line, line_chart
from finetune.monitoring.report.markup import Html, pluralize, section, table, tag
from finetune.monitoring.report.page import html_document

_CURVES = {
    "validation:loss": "validation loss",
    "validation:accuracy": "validation accuracy",
    "validation:micro_f1": "validation micro F1",
    "train:loss": "training loss",
}


@dataclass(frozen=True, slots=True)
class ComparedJob:
    """A job in a comparison.

    Attributes:
        name: its name, unique in the comparison.
        results: texts by column, such as its accuracy; jobs may lack columns.
        settings: hyperparameters by name.
        history: metrics of each epoch.
    """

    name: str
    results: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()


def differing_settings(jobs: Sequence[ComparedJob]) -> list[str]:
    """Return the names of the hyperparameters that differ between jobs, in alphabetical order."""
    names = {name for job in jobs for name in job.settings}
    return sorted(name for name in names if len({job.settings.get(name) for job in jobs}) > 1)


def result_columns(jobs: Iterable[ComparedJob]) -> list[str]:
    """Return the columns that any job has, in the order of their first appearance."""
    return list(dict.fromkeys(name for job in jobs for name in job.results))


def comparison_page(jobs: Sequence[ComparedJob]) -> str:
    """Render the page.

    Args:
        jobs: the jobs, the best one first.

    Returns:
        Self-contained HTML.
    """
    title = f"Comparison of {pluralize(len(jobs), 'job')}"
    sections = [
        section("Results", _table(jobs, result_columns(jobs), settings=False), name="results", wide=True),
        _settings(jobs),
        _curves(jobs),
    ]
    headline = f"Best: {jobs[0].name}" if len(jobs) > 1 else jobs[0].name
    head = tag("div", tag("p", title, class_="overline"), tag("h1", headline), class_="top")
    return html_document(title, head, tag("main", *sections))


def _settings(jobs: Sequence[ComparedJob]) -> Html:
    names = differing_settings(jobs)
    content = _table(jobs, names, settings=True) if names else tag("p", "All hyperparameters are equal.")
    return section("Differing hyperparameters", content, name="hyperparameters", wide=True)


def _table(jobs: Sequence[ComparedJob], columns: Sequence[str], *, settings: bool) -> Html:
    rows = []
    for job in jobs:
        values = job.settings if settings else job.results
        rows.append((job.name, *(values.get(column, "") for column in columns)))
    return table(("job", *columns), rows)


def _curves(jobs: Sequence[ComparedJob]) -> Html | None:
    figures = []
    for metric, label in _CURVES.items():
        lines = []
        for job in jobs:
            points = [(number, row[metric]) for number, row in enumerate(job.history, 1) if metric in row]
            if points:
                epochs, values = zip(*points, strict=True)
                lines.append(Line(job.name, epochs, values))
        if lines:
            chart = line_chart(lines, Axes("epoch", label))
            figures.append(tag("div", tag("h3", label.capitalize()), chart))
    return section("Curves", tag("div", *figures, class_="columns"), name="curves", wide=True) if figures else None
