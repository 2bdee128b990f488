"""Observers that record training for TensorBoard and SageMaker Debugger."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from finetune.data.loading.batches import BatchSource
from finetune.monitoring.debugger import Debugger
from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.optional import Guard
from finetune.strategies.plan import Phase
from finetune.training.inputs import InputProvider, PhaseInputs
from finetune.training.state import EpochMetrics, TrainingState
from finetune.training.trainer import Observer


@dataclass(frozen=True, slots=True)
class TrackingObserver:
    """Observer that forwards all events to `inner` and records them."""

    inner: Observer
    events: EventFile
    debugger: Debugger
    guard: Guard = field(default_factory=lambda: Guard("Writing events for TensorBoard"))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Forward the event and start the training mode of the debugger."""
        self.inner.epoch_begins(state, phase)
        self.debugger.begin_step(state.progress.step, state.progress.epoch)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Record the loss."""
        self.inner.step_done(state, loss)
        self.debugger.end_step(loss)

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Write the metrics of the epoch, indexed by the number of finished epochs."""
        self.inner.epoch_done(epoch, row, history)
        self.debugger.end_evaluation(row.get("validation:loss"))
        self.guard(self.events.add_scalars, epoch + 1, row)


@dataclass(frozen=True, slots=True)
class DebuggedInputs:
    """Inputs whose forward passes are observed by the debugger, through all or the trainable part of the model."""

    inner: InputProvider
    debugger: Debugger

    @property
    def records(self) -> BatchSource:
        """The training records."""
        return self.inner.records

    def training(self, phase: Phase) -> PhaseInputs:
        """Return the observed inputs of a phase."""
        return self.look(self.inner.training(phase))

    def look(self, feed: PhaseInputs) -> PhaseInputs:
        """Return the same batches with an observed forward pass."""
        return replace(feed, forward=self.debugger.wrap_forward(feed.forward))
