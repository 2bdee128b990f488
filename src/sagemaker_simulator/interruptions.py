"""Interruptions of a job, drawn reproducibly from a seed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "reclaim", "reclaim_twice", "stop", "kill_rank", "cut", "slow", "delay", "loss"]
"""Kind of interruption.

`kill`: the machine is lost without notice. `reclaim`: SIGTERM, and the machine is lost after the grace period.
`reclaim_twice`: the same, with a second SIGTERM soon after the first. `stop`: the user's StopTrainingJob, which also
sends SIGTERM and SIGKILL, but ends the job in an orderly way: everything is uploaded, and the job is not restarted.

`kill_rank`: SIGKILL to one of the processes that train, as by the system when memory runs out. The other kinds affect
the network link of one of several hosts. `cut`: nothing passes. `slow`: `amount` megabits per second. `delay`: `amount`
milliseconds in each direction. `loss`: `amount` percent of the packets are lost.
"""

LINK_KINDS: tuple[Kind, ...] = ("cut", "slow", "delay", "loss")

FAULT_KINDS: tuple[Kind, ...] = ("kill_rank", *LINK_KINDS)
"""Kinds that take no machine away: the job decides about its end."""

DEFAULT_AMOUNTS: dict[Kind, float] = {"slow": 1.0, "delay": 100.0, "loss": 10.0}

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
        host: Host to interrupt; `None` for all hosts, or for the first one if only one can be affected.
        rank: Number of the process for `kill_rank` among those of its host, modulo their number.
        amount: Extent of `slow`, `delay` and `loss`; `None` for the default.
        duration_seconds: Seconds after which a link is restored; `None` for never.
    """

    moment: Moment
    kind: Kind = "kill"
    grace_seconds: float = GRACE_SECONDS
    repeat_seconds: float = 0.05
    host: str | None = None
    rank: int = 0
    amount: float | None = None
    duration_seconds: float | None = None

    @property
    def extent(self) -> float:
        """Return the amount, or the default of the kind."""
        return DEFAULT_AMOUNTS.get(self.kind, 0.0) if self.amount is None else self.amount


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
        hosts: Equally likely hosts; `None` for all of them.
        last_rank: Maximum number of the process for `kill_rank`; drawn from 0.
    """

    earliest_seconds: float
    latest_seconds: float
    kinds: tuple[Kind, ...] = ("kill",)
    patterns: tuple[str, ...] = ()
    last_occurrence: int = 1
    grace_seconds: float = GRACE_SECONDS
    hosts: tuple[str | None, ...] = (None,)
    last_rank: int = 0


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
    host = generator.choice(schedule.hosts)
    return Interruption(moment, kind, schedule.grace_seconds, host=host, rank=generator.randint(0, schedule.last_rank))
