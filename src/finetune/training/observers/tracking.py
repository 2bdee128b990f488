"""Passes training on to those who write it down for others: TensorBoard, and SageMaker Debugger's library."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from finetune.data.loading.batches import BatchSource
from finetune.monitoring.debugger import Debugger
from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.optional import Guard
from finetune.strategies.plan import Phase
from finetune.training.inputs import Feed, Feeds
from finetune.training.state import Row, TrainingState
from finetune.training.trainer import Observer


@dataclass(frozen=True, slots=True)
class Recorder:
    """An observer that passes everything on and writes it down."""

    inner: Observer
    events: EventFile
    debugger: Debugger
    guard: Guard = field(default_factory=lambda: Guard("Writing events for TensorBoard"))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Training begins, or goes on."""
        self.inner.epoch_begins(state, phase)
        self.debugger.training(state.progress.step, state.progress.epoch)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Save the loss."""
        self.inner.step_done(state, loss)
        self.debugger.step_done(loss)

    def epoch_done(self, epoch: int, row: Row, history: list[Row]) -> None:
        """Write the metrics of the epoch, at the number of epochs done."""
        self.inner.epoch_done(epoch, row, history)
        self.debugger.evaluated(row.get("validation:loss"))
        self.guard(self.events.scalars, epoch + 1, row)


@dataclass(frozen=True, slots=True)
class LookedAt:
    """Feeds whose passes the debugger looks at: through all of the network, or through what learns of it."""

    inner: Feeds
    debugger: Debugger

    @property
    def records(self) -> BatchSource:
        """The training records themselves."""
        return self.inner.records

    def training(self, phase: Phase) -> Feed:
        """What a phase trains on."""
        return self.look(self.inner.training(phase))

    def look(self, feed: Feed) -> Feed:
        """The same batches, into a pass that is looked at."""
        return replace(feed, forward=self.debugger.through(feed.forward))
