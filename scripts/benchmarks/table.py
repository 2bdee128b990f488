"""How is a table printed, line by line, so that a run that is cut off has told what it knew?"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from benchmarks.machine import heading


def say(line: str = "") -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def begin(title: str, columns: Sequence[str]) -> None:
    """Write title, machine and the head of a table."""
    say(f"### {title}\n\n{heading()}\n")
    row(columns)
    row(["---"] * len(columns))


def row(cells: Sequence[str]) -> None:
    """Write a row."""
    say(f"| {' | '.join(cells)} |")


def times(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """How many times as much theirs are: the ratio of the medians of runs that took turns."""
    return f"{statistics.median(theirs) / statistics.median(ours):.2f} x"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The median of the ratios of runs that shared the machine by turns; of several, the least and the most, too."""
    ratios = sorted(one / other for one, other in zip(numerators, denominators, strict=True))
    told = f"{statistics.median(ratios):.2f} x"
    return told if len(ratios) == 1 else f"{told} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def middle(values: Sequence[float], digits: int = 1) -> str:
    """A median."""
    return f"{statistics.median(values):,.{digits}f}"
