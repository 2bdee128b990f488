"""Parses the log of a job into epochs and other lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EPOCH = re.compile(r"epoch=(\d+); (.*)")
_SOLVED = re.compile(r"solved; (.*)")
_FINAL = re.compile(r"final; (.*)")
_METRIC = re.compile(r"([\w:]+)=(-?[0-9.]+|-?inf|nan);")
_DURATION = re.compile(r"epoch (\d+) took (.+)")
ERROR_PREFIX = "ERROR: "


@dataclass(frozen=True, slots=True)
class Epoch:
    """Metrics of an epoch.

    Attributes:
        number: counted from 1; 0 for a solved head.
        metrics: values by name, such as `validation:accuracy`.
    """

    number: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class EpochDuration:
    """Duration of an epoch, counted from 1, as text."""

    number: int
    duration: str


@dataclass(frozen=True, slots=True)
class FinalMetrics:
    """Metrics of the exported model."""

    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Text:
    """Any other line."""

    line: str


Event = Epoch | EpochDuration | FinalMetrics | Text


def parse_line(line: str) -> Event:
    """Parse a line of the log, without its end."""
    if match := _EPOCH.fullmatch(line):
        return Epoch(int(match[1]), _metrics(match[2]))
    if match := _SOLVED.fullmatch(line):
        return Epoch(0, _metrics(match[1]))
    if match := _FINAL.fullmatch(line):
        return FinalMetrics(_metrics(match[1]))
    if match := _DURATION.fullmatch(line):
        return EpochDuration(int(match[1]), match[2])
    return Text(line)


def _metrics(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in _METRIC.findall(text)}


class LogFollower:
    """Reads the lines that a process appends to a log.

    Args:
        path: the log; lines that it contains already are skipped.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._file.seek(0, 2)
        self._partial = b""

    def lines(self, *, to_end: bool = False) -> Iterator[str]:
        """Yield new lines; with `to_end` also a last line without an end."""
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        if to_end and self._partial:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            yield line.decode("utf-8", errors="replace").rstrip("\r")

    def close(self) -> None:
        """Close the log."""
        self._file.close()
