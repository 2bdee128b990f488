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
from finetune.training.saved_state.state import EpochMetrics, TrainingState


@dataclass(frozen=True, slots=True)
class TrackingObserver:
    """Records losses and metrics."""

    events: EventFile
    debugger: Debugger
    guard: Guard = field(default_factory=lambda: Guard("The TensorBoard events"))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Start the training mode of the debugger."""
        del phase
        self.debugger.begin_step(state.progress.step, state.progress.epoch)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Record the loss."""
        del state
        self.debugger.end_step(loss)

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Write the metrics of the epoch, indexed by the number of finished epochs."""
        del history
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
        return self.wrap(self.inner.training(phase))

    def wrap(self, inputs: PhaseInputs) -> PhaseInputs:
        """Return the same batches with an observed forward pass."""
        return replace(inputs, forward=self.debugger.wrap_forward(inputs.forward))
