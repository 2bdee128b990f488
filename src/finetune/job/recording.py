"""Passes training on to those who write it down for others: TensorBoard, and SageMaker Debugger's library."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from finetune.observe.debugger import Debugger
from finetune.observe.tensorboard import EventFile
from finetune.strategies.plan import Phase
from finetune.training.loop import Observer
from finetune.training.state import Row, TrainingState


@dataclass(frozen=True, slots=True)
class Recorder:
    """An observer that passes everything on and writes it down."""

    inner: Observer
    events: EventFile
    debugger: Debugger

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Training begins, or goes on."""
        self.inner.epoch_begins(state, phase)
        self.debugger.training(state.progress.step)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Save the loss."""
        self.inner.step_done(state, loss)
        self.debugger.loss(loss)

    def epoch_done(self, epoch: int, row: Row, history: list[Row]) -> None:
        """Write the metrics of the epoch, at the number of epochs done."""
        self.inner.epoch_done(epoch, row, history)
        self.events.scalars(epoch + 1, row)
