"""Formats the plan for the log: data, classes, model, learning rate of each layer group, and number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.messages import Lines, one_line

_SHOWN_CLASSES = 12


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Summary of the data in the channels.

    Attributes:
        task: task and its source.
        records: number of records by purpose, such as `train`.
        classes: number of training records of every class, in the order of the labels.
    """

    task: str
    records: Mapping[str, int | None]
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Row of the layer group table: parameters, peak learning rate, and first epoch (from 0) in which it is trained."""

    name: str
    parameters: int
    rate: float | None
    first_epoch: int | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Formatted lines about how the job will run."""

    network: str
    weights: str
    lines: Sequence[str]


def plan_text(data: DataSummary, groups: Sequence[GroupSummary], run: RunSummary) -> Lines:
    """The whole plan as lines of text, for the log."""
    learning = sum(group.parameters for group in groups if group.rate is not None)
    total = sum(group.parameters for group in groups)
    lines = [
        f"task      {data.task}",
        "records   " + ", ".join(_counted(name, count) for name, count in data.records.items()),
        *_class_lines(data.classes),
        f"network   {run.network}",
        f"weights   {run.weights}",
        f"learning  {learning:,} of {total:,} parameters ({learning / max(1, total):.1%})",
        *_group_lines(groups),
        *run.lines,
    ]
    return Lines("\n".join(["Plan", *(f"  {one_line(line)}" for line in lines)]))


def _counted(name: str, count: int | None) -> str:
    return f"{name} as many as its pipe brings" if count is None else f"{name} {count:,}"


def _class_lines(classes: Mapping[str, int]) -> list[str]:
    largest = sorted(classes.items(), key=lambda item: -item[1])
    known = any(classes.values())
    few = list(classes.items())[:_SHOWN_CLASSES]
    shown = ", ".join(f"{name} {count:,}" if known else name for name, count in few)
    more = f", and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
    lines = [f"classes   {len(classes)}: {shown}{more}"]
    (most, many), (least, fewest) = largest[0], largest[-1]
    if many >= 5 * max(1, fewest):
        lines.append(
            f"balance   {most!r} has {many / max(1, fewest):.0f} times the records of {least!r}: see class_weights"
        )
    return lines


def _group_lines(groups: Sequence[GroupSummary]) -> list[str]:
    width = max(len(group.name) for group in groups)
    lines = []
    for group in groups:
        if group.rate is None or group.first_epoch is None:
            what = "frozen"
        else:
            since = f" from epoch {group.first_epoch + 1}" if group.first_epoch else ""
            what = f"learns at {group.rate:.9f}".rstrip("0") + since
        lines.append(f"  {group.name:<{width}}  {group.parameters:>12,}  {what}")
    return lines
