"""What learns, from which epoch on, and how fast: pure data, printable and testable without a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of epochs with the same layers learning.

    Attributes:
        first_epoch: epoch, counted from 0, at which the phase begins; it lasts until the next one begins.
        trainable: names of the layer groups that learn, in network order.
    """

    first_epoch: int
    trainable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Every phase of a job.

    Attributes:
        groups: names of all layer groups, from input to head.
        phases: in order; the first begins with epoch 0.
        rates: peak learning rate of every group that ever learns.
    """

    groups: tuple[str, ...]
    phases: tuple[Phase, ...]
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        starts = [phase.first_epoch for phase in self.phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"phases must begin at epoch 0 and strictly follow each other, not at {starts}")
        missing = set(self.ever_trainable) ^ set(self.rates)
        if missing or not set(self.ever_trainable) <= set(self.groups):
            raise ValueError(f"groups and rates do not fit together: {sorted(missing)}")

    def phase(self, epoch: int) -> Phase:
        """The phase that epoch `epoch`, counted from 0, belongs to."""
        return next(phase for phase in reversed(self.phases) if phase.first_epoch <= epoch)

    @property
    def ever_trainable(self) -> tuple[str, ...]:
        """Names of the groups that learn in some phase, in network order."""
        names = {name for phase in self.phases for name in phase.trainable}
        return tuple(name for name in self.groups if name in names)
