"""Defines the training plan: trainable groups by epoch and their learning rates, as plain data without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """Consecutive epochs with the same trainable layers.

    Attributes:
        first_epoch: first epoch, counted from 0; the phase lasts until the next one begins.
        trainable: names of the trainable layer groups, from input to head.
    """

    first_epoch: int
    trainable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All phases of a job.

    Attributes:
        groups: names of all layer groups, from input to head.
        phases: phases in order; the first begins at epoch 0.
        learning_rates: peak learning rate of every group that is trainable in some phase.
    """

    groups: tuple[str, ...]
    phases: tuple[Phase, ...]
    learning_rates: Mapping[str, float]

    def __post_init__(self) -> None:
        starts = [phase.first_epoch for phase in self.phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"phases must begin at epoch 0 and strictly follow each other, not at {starts}")
        missing = set(self.ever_trainable) ^ set(self.learning_rates)
        if missing or not set(self.ever_trainable) <= set(self.groups):
            raise ValueError(f"trainable groups and learning rates do not match: {sorted(missing)}")

    def phase(self, epoch: int) -> Phase:
        """Return the phase of epoch `epoch`, counted from 0."""
        return next(phase for phase in reversed(self.phases) if phase.first_epoch <= epoch)

    def split_index(self, phase: Phase) -> int:
        """Return the number of leading layer groups that are not trained up to and including a phase."""
        trained = {
            name for earlier in self.phases if earlier.first_epoch <= phase.first_epoch for name in earlier.trainable
        }
        return next((index for index, name in enumerate(self.groups) if name in trained), len(self.groups))

    @property
    def ever_trainable(self) -> tuple[str, ...]:
        """Names of the groups that are trainable in some phase, from input to head."""
        names = {name for phase in self.phases for name in phase.trainable}
        return tuple(name for name in self.groups if name in names)
