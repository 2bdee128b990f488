"""Compares two implementations on a machine whose speed varies."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """Amounts to measure.

    Attributes:
        rounds: number of rounds, each running every implementation once.
        stream: bytes of a stream to be split into records.
        images: number of images decoded per run.
        source: bytes of the throttled source.
        rate: of that source, in bytes per second.
        long: bytes of the long stream.
    """

    rounds: int
    stream: int
    images: int
    source: int
    rate: float
    long: int


FULL = Scale(rounds=7, stream=512 << 20, images=4096, source=10**9, rate=1e8, long=10**10)
QUICK = Scale(rounds=1, stream=2 << 20, images=16, source=4 * 10**6, rate=2e7, long=4 * 10**6)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        what: description of the measured task.
        ours: our result.
        theirs: result of the implementation it is compared with.
        ratios: of each round.
        goal: description of the goal.
    """

    what: str
    ours: str
    theirs: str
    ratios: Sequence[float]
    goal: str

    def __str__(self) -> str:
        """Format as Markdown."""
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        spread = f" ({_number(low)} to {_number(high)})" if len(self.ratios) > 1 else ""
        return f"| {self.what} | {self.ours} | {self.theirs} | {_number(middle)}{spread} | {self.goal} |"


HEAD = "| measurement | ours | reference | ratio: median (minimum to maximum) | goal |\n|---|---|---|---|---|"


def by_turns(designs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each implementation in each round, after a warm-up round if there are several."""
    if rounds > 1:
        for design in designs.values():
            design()
    turns = [{name: design() for name, design in designs.items()} for _ in range(rounds)]
    return {name: [turn[name] for turn in turns] for name in designs}


def times_as_fast(seconds: Seconds, ours: str, theirs: str) -> list[float]:
    """Speed ratio of ours to theirs in each round."""
    return [other / own for own, other in zip(seconds[ours], seconds[theirs], strict=True)]


def rate(amount: float, seconds: Sequence[float], unit: str) -> str:
    """The amount per second in the median round."""
    return f"{_number(amount / statistics.median(seconds))} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
