"""When and how a job is disturbed, drawn from a seed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "reclaim", "reclaim_twice", "stop"]
"""What happens to the job.

`kill`: the machine is gone without a word. `reclaim`: SIGTERM, and the machine is gone after the grace time.
`reclaim_twice`: the same with a second SIGTERM soon after the first. `stop`: the user's StopTrainingJob, which sends
SIGTERM and SIGKILL too, but is an orderly end: everything is uploaded, and the job is not started again.
"""

GRACE_SECONDS = 120.0
"""Between SIGTERM and SIGKILL on the platform."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in a job's life.

    Attributes:
        seconds: after the start, or after the line of the log.
        pattern: a regular expression that is searched in each line of the log; `None` counts from the start.
        occurrence: the how many-th line that matches, from 1.
    """

    seconds: float
    pattern: str | None = None
    occurrence: int = 1

    def __post_init__(self) -> None:
        if self.pattern is not None:
            re.compile(self.pattern)

    @property
    def watch(self) -> tuple[str, int] | None:
        """Pattern and occurrence, where there is a pattern."""
        return None if self.pattern is None else (self.pattern, self.occurrence)


@dataclass(frozen=True, slots=True)
class Interruption:
    """One disturbance of one start of a job.

    Attributes:
        moment: when it begins.
        kind: how it goes on.
        grace_seconds: between the first SIGTERM and the end of the machine.
        again_seconds: between the two SIGTERM of `reclaim_twice`.
    """

    moment: Moment
    kind: Kind = "kill"
    grace_seconds: float = GRACE_SECONDS
    again_seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class Schedule:
    """From what interruptions are drawn.

    Attributes:
        earliest_seconds: after the start, or after the line of the log.
        latest_seconds: likewise.
        kinds: each is as likely as the others.
        patterns: lines of the log from which to count; each is as likely as the others; none counts from the start.
        last_occurrence: the occurrence of a pattern is drawn from 1 to this.
        grace_seconds: of every interruption.
    """

    earliest_seconds: float
    latest_seconds: float
    kinds: tuple[Kind, ...] = ("kill",)
    patterns: tuple[str, ...] = ()
    last_occurrence: int = 1
    grace_seconds: float = GRACE_SECONDS


def draw_interruptions(schedule: Schedule, count: int, seed: int) -> tuple[Interruption, ...]:
    """Draw `count` interruptions: a function of its arguments, and the first ones do not depend on `count`."""
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
