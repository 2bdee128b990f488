"""Prints tables line by line, so that an aborted run has printed its results so far."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from benchmarks.machine import heading


def say(line: str = "") -> None:
    """Print a line immediately."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def begin(title: str, columns: Sequence[str]) -> None:
    """Print title, machine and the head of a table."""
    say(f"### {title}\n\n{heading()}\n")
    row(columns)
    row(["---"] * len(columns))


def row(cells: Sequence[str]) -> None:
    """Print a row."""
    say(f"| {' | '.join(cells)} |")


def times(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Ratio of theirs to ours: the ratio of the medians of interleaved runs."""
    return f"{statistics.median(theirs) / statistics.median(ours):.2f} x"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The median ratio of interleaved runs; for several runs, also the minimum and maximum."""
    ratios = sorted(numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True))
    text = f"{statistics.median(ratios):.2f} x"
    return text if len(ratios) == 1 else f"{text} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def middle(values: Sequence[float], digits: int = 1) -> str:
    """Format a median."""
    return f"{statistics.median(values):,.{digits}f}"
