"""Interruptions of a job, drawn reproducibly from a seed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "reclaim", "reclaim_twice", "stop"]
"""Kind of interruption.

`kill`: the machine is lost without notice. `reclaim`: SIGTERM, and the machine is lost after the grace period.
`reclaim_twice`: the same, with a second SIGTERM soon after the first. `stop`: the user's StopTrainingJob, which also
sends SIGTERM and SIGKILL, but ends the job in an orderly way: everything is uploaded, and the job is not restarted.
"""

GRACE_SECONDS = 120.0
"""Seconds between SIGTERM and SIGKILL on the platform."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Point in time of a job's run.

    Attributes:
        seconds: Seconds after the start, or after the log line.
        pattern: Regular expression searched in each line of the log; `None` counts from the start.
        occurrence: Number of the matching line, from 1.
    """

    seconds: float
    pattern: str | None = None
    occurrence: int = 1

    def __post_init__(self) -> None:
        if self.pattern is not None:
            re.compile(self.pattern)

    @property
    def watch(self) -> tuple[str, int] | None:
        """Return pattern and occurrence, if there is a pattern."""
        return None if self.pattern is None else (self.pattern, self.occurrence)


@dataclass(frozen=True, slots=True)
class Interruption:
    """Interruption of one start of a job.

    Attributes:
        moment: Time at which it begins.
        kind: Kind of the interruption.
        grace_seconds: Seconds between the first SIGTERM and the end of the machine.
        repeat_seconds: Seconds between the two SIGTERM of `reclaim_twice`.
    """

    moment: Moment
    kind: Kind = "kill"
    grace_seconds: float = GRACE_SECONDS
    repeat_seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class Schedule:
    """Distribution from which interruptions are drawn.

    Attributes:
        earliest_seconds: Minimum seconds after the start, or after the log line.
        latest_seconds: Maximum of the same.
        kinds: Equally likely kinds.
        patterns: Equally likely log lines from which to count; if empty, count from the start.
        last_occurrence: Maximum occurrence of a pattern; drawn from 1.
        grace_seconds: Grace period of every interruption.
    """

    earliest_seconds: float
    latest_seconds: float
    kinds: tuple[Kind, ...] = ("kill",)
    patterns: tuple[str, ...] = ()
    last_occurrence: int = 1
    grace_seconds: float = GRACE_SECONDS


def draw_interruptions(schedule: Schedule, count: int, seed: int) -> tuple[Interruption, ...]:
    """Draw `count` interruptions deterministically; the first ones do not depend on `count`."""
    return tuple(_draw(schedule, random.Random(f"{seed}/{number}")) for number in range(count))  # noqa: S311 - a schedule


def _draw(schedule: Schedule, generator: random.Random) -> Interruption:
    seconds = generator.uniform(schedule.earliest_seconds, schedule.latest_seconds)
    kind = generator.choice(schedule.kinds)
    if schedule.patterns:
        pattern = generator.choice(schedule.patterns)
        moment = Moment(seconds, pattern, generator.randint(1, schedule.last_occurrence))
    else:
        moment = Moment(seconds)
    return Interruption(moment, kind, schedule.grace_seconds)
