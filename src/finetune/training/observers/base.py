"""Interface of training observers, and a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from finetune.strategies.plan import Phase
from finetune.training.saved_state.state import EpochMetrics, TrainingState


class Observer(Protocol):
    """Read-only observer of training events."""

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Called when the epoch of `state.progress` begins or is resumed."""
        ...

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Called after each step; `loss` is its mean loss, on the device."""
        ...

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Called after training and evaluating an epoch; `row` has its metrics, `history` those of all epochs."""
        ...


class Observers:
    """Passes each event to several observers, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Pass on the beginning of an epoch."""
        for observer in self._observers:
            observer.epoch_begins(state, phase)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Pass on the end of a step."""
        for observer in self._observers:
            observer.step_done(state, loss)

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Pass on the end of an epoch."""
        for observer in self._observers:
            observer.epoch_done(epoch, row, history)
