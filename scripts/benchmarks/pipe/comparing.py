"""How do two ways of doing the same compare on a machine whose speed varies?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: in which every design has its turn.
        stream: bytes of a stream that is cut into records.
        pictures: that are decoded in a turn.
        source: bytes of the throttled source.
        rate: of that source, in bytes per second.
        long: bytes of the long stream.
    """

    rounds: int
    stream: int
    pictures: int
    source: int
    rate: float
    long: int


FULL = Scale(rounds=7, stream=512 << 20, pictures=4096, source=10**9, rate=1e8, long=10**10)
QUICK = Scale(rounds=1, stream=2 << 20, pictures=16, source=4 * 10**6, rate=2e7, long=4 * 10**6)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        what: is measured.
        ours: in words.
        theirs: what it is measured against, in words.
        ratios: of each round.
        goal: in words.
    """

    what: str
    ours: str
    theirs: str
    ratios: Sequence[float]
    goal: str

    def __str__(self) -> str:
        """In Markdown."""
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        spread = f" ({_number(low)} to {_number(high)})" if len(self.ratios) > 1 else ""
        return f"| {self.what} | {self.ours} | {self.theirs} | {_number(middle)}{spread} | {self.goal} |"


HEAD = "| what | ours | against | ratio: median (least to most) | goal |\n|---|---|---|---|---|"


def by_turns(designs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each design in each round, after one round that does not count where there are several."""
    if rounds > 1:
        for design in designs.values():
            design()
    turns = [{name: design() for name, design in designs.items()} for _ in range(rounds)]
    return {name: [turn[name] for turn in turns] for name in designs}


def times_as_fast(seconds: Seconds, ours: str, theirs: str) -> list[float]:
    """How many times as fast ours was in each round."""
    return [other / own for own, other in zip(seconds[ours], seconds[theirs], strict=True)]


def rate(amount: float, seconds: Sequence[float], unit: str) -> str:
    """The amount per second in a middling round."""
    return f"{_number(amount / statistics.median(seconds))} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
