"""Training loop: epochs of steps with evaluation after each epoch, interruptible after every step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from finetune.data.loading.batches import Batch
from finetune.distributed.data_parallel import DataParallel, Order
from finetune.distributed.sharding.fully_sharded import FullySharded
from finetune.distributed.virtual_devices import VirtualDevices
from finetune.distributed.world import World
from finetune.errors import DataError, DivergedError, JobStopped
from finetune.monitoring.score import BestMetric
from finetune.runtime.computations import computing
from finetune.runtime.threads import limit_threads
from finetune.strategies.freezing import apply_trainable
from finetune.strategies.plan import Plan
from finetune.training.inputs import InputProvider, PhaseInputs
from finetune.training.observers.base import Observer
from finetune.training.optim import Schedule, set_learning_rates
from finetune.training.process_watch import ProcessWatch
from finetune.training.saved_state.state import EpochMetrics, TrainingState
from finetune.training.sharded import ShardedTraining
from finetune.training.step import Parallel, TrainStep
from finetune.training.steps import ShardedSteps, Situation, Steps, WholeSteps


class Checkpoints(Protocol):
    """Saves the training state."""

    def step_done(self, state: TrainingState) -> None:
        """Save after a step, if due."""
        ...

    def epoch_done(self, state: TrainingState) -> None:
        """Save after an epoch and its evaluation, if due."""
        ...

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Save at the end or on interruption; return once the state is written."""
        ...


class JobBadRecords(Protocol):
    """The bad records that the processes of a job have found."""

    @property
    def unshared(self) -> int:
        """Number of bad records that the other processes do not know."""
        ...

    def share(self, world: World) -> None:
        """Exchange bad records with all processes.

        Raises:
            DataError: More records are bad than allowed.
        """
        ...


class NoCheckpoints:
    """Null implementation that saves nothing."""

    def step_done(self, state: TrainingState) -> None:
        """Do nothing."""

    def epoch_done(self, state: TrainingState) -> None:
        """Do nothing."""

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Early stopping criteria.

    Attributes:
        patience: Epochs without improvement, or `None` to disable.
        min_delta: Minimum improvement of the metric that counts.
        min_epochs: Minimum number of epochs to train.
    """

    patience: int | None = None
    min_delta: float = 0.0
    min_epochs: int = 0


@dataclass(frozen=True, slots=True)
class Training:
    """Configuration of a training: the step, plan, inputs and callbacks.

    Attributes:
        inputs: Provides the batches of each phase.
        accumulation: Batches per optimizer step.
        evaluate: Returns the current model's validation metrics, or `None` if interrupted.
        interrupted: Returns whether the job should stop, as far as this process knows.
        world: The processes of the job, which train together.
        devices: The virtual devices, at least as many as processes.
        order: Order of the sums over shards.
        sharded: The model, if its trainable layers are sharded, in a single phase; else `None`.
        bad_records: The bad records found in training.
        watch: Compares the processes of the job after each epoch.
        best_metric: Determines the best epoch and early stopping.
        ema_decay: Decay of the average of the weights; 0 for none.
        max_steps: Optimizer steps of the job, if the last epoch may end early; `None` for whole epochs.
        out_of_time: Returns whether no further epoch may begin; called by all processes after each epoch.
    """

    stepper: TrainStep
    plan: Plan
    schedule: Schedule
    inputs: InputProvider
    epochs: int
    accumulation: int
    stopping: EarlyStopping
    evaluate: Callable[[], EpochMetrics | None]
    interrupted: Callable[[], bool]
    world: World
    devices: VirtualDevices
    order: Order
    sharded: ShardedTraining | None
    bad_records: JobBadRecords
    watch: ProcessWatch
    best_metric: BestMetric
    ema_decay: float = 0.0
    max_steps: int | None = None
    out_of_time: Callable[[], bool] = bool


def steps_per_epoch(batches: int, accumulation: int) -> int:
    """Return the optimizer steps per epoch; the last one takes the remaining batches."""
    return math.ceil(batches / accumulation)


def fit(training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints) -> bool:
    """Train from the current state to the end.

    Returns:
        Whether training is finished; otherwise it was interrupted between two steps or during evaluation, and can be
        resumed from the state.

    Raises:
        DivergedError: The loss is not finite; the last row of the history contains it.
    """
    progress = state.progress
    while not progress.stopped_early and progress.epoch < training.epochs:
        if not _train_epoch(training, state, observer, checkpoints):
            return False
        if not end_epoch(training, state, observer, checkpoints):
            return False
    return True


def end_epoch(training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints) -> bool:
    """Evaluate the model, close the epoch and save; return `False` if the evaluation was interrupted."""
    training.watch.epoch_done()
    with state.average.applied():
        with training.stepper.timing.host("evaluate"):
            metrics = training.evaluate()
        if metrics is None:
            return False
        _close_epoch(training, state, observer, metrics)
    progress = state.progress
    if training.out_of_time() and progress.epoch < training.epochs:
        progress.stopped_early = True
    if state.averaging is not None:
        state.averaging.epoch_done(progress.epoch, training.epochs, state.weights)
    with training.stepper.timing.host("save"):
        checkpoints.epoch_done(state)
    return True


def restore_best(state: TrainingState) -> None:
    """Load the best epoch's weights into the model if they were kept, otherwise the average of the weights, if any.

    Separate from `fit`, so that a finished job's state is that of its last step and training can be extended.
    """
    if state.best.weights:
        state.weights.load_state_dict(state.best.weights)
    else:
        state.average.apply()


def _train_epoch(training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints) -> bool:
    progress = state.progress
    phase = training.plan.phase(progress.epoch)
    apply_trainable(training.stepper.backbone, phase.trainable)
    observer.epoch_begins(state, phase)
    inputs = training.inputs.training(phase)
    timing = training.stepper.timing
    timing.pause()
    with (
        limit_threads(single_threaded=inputs.single_threaded),
        closing(steps_of_phase(training, inputs)) as steps,
        closing(
            inputs.source.iterate(progress.epoch, progress.step_in_epoch * training.accumulation, steps.share)
        ) as batches,
    ):
        groups = timing.measure_waiting(grouped(batches, steps.batches_per_step))
        while progress.step != training.max_steps:
            state.stream.begin_step()
            group, interrupted = next_group(groups, training.interrupted, drawn=steps.draws_in_lockstep)
            own = Situation(interrupted, training.bad_records.unshared, state.stream.mark)
            with timing.host("exchange"):
                agreement = steps.agree(group, progress.step, own)
            if agreement.bad_records:
                training.bad_records.share(training.world)
            if agreement.stop:
                state.stream.undo_step()
                return False
            state.stream.compare(agreement.marks)
            if agreement.ended:
                return True
            set_learning_rates(training.stepper.optimizer, training.schedule(progress.step))
            with computing("a training step"):
                loss = steps.run(group, progress.step, state.totals)
            progress.step += 1
            progress.step_in_epoch += 1
            state.average.step_done(progress.step)
            observer.step_done(state, loss)
            with timing.host("save"):
                checkpoints.step_done(state)
            timing.step_done(sum(tensor.numel() for batch in group for tensor in batch.inputs.values()))
    return True


def steps_of_phase(training: Training, inputs: PhaseInputs) -> Steps:
    """Return the steps on the inputs of a phase, of which each process takes its share."""
    stepper, world, accumulation = training.stepper, training.world, training.accumulation
    if training.devices.count == 1 or inputs.replicated:
        return WholeSteps(stepper, inputs.forward, world, accumulation, in_lockstep=inputs.in_lockstep)
    shards = training.devices.count
    parallel: Parallel
    if training.sharded is None:
        parallel = DataParallel(stepper.backbone.module, inputs.forward, shards, world, order=training.order)
    else:
        idle_pass = partial(stepper.made_up_loss, training.sharded.features)
        parallel = FullySharded(training.sharded.model, inputs.forward, shards, world, idle_pass)
    return ShardedSteps(stepper, parallel, world, accumulation, training.devices)


def next_group(
    groups: Iterator[list[Batch]], interrupted: Callable[[], bool], *, drawn: bool
) -> tuple[list[Batch], bool]:
    """Return the batches of the next step, and whether this process is to stop.

    There are none at the end of the epoch; and unless they must be `drawn`, if this process is to stop.
    """
    try:
        if interrupted() and not drawn:
            return [], True
        return next(groups, []), drawn and interrupted()
    except JobStopped:
        return [], True


def _close_epoch(training: Training, state: TrainingState, observer: Observer, metrics: EpochMetrics) -> None:
    """Record the metrics of an epoch, and begin the next.

    Args:
        training: The training.
        state: State after the last step of the epoch.
        observer: Observer of the epoch.
        metrics: Validation metrics.

    Raises:
        DataError: No record could be read.
        DivergedError: The loss is not finite; the last row of the history contains it.
    """
    progress = state.progress
    if progress.step_in_epoch and not state.totals.records:
        raise DataError(
            f"The model was not trained in epoch {progress.epoch + 1}: no training record can be read, or every batch"
            " has a single record, for which batch normalization is undefined. Add records, or fix those named in the"
            " warnings."
        )
    row = {f"train:{name}": value for name, value in state.totals.means().items()} | metrics
    if not math.isfinite(row["train:loss"]):
        state.history.rows.append(row)
        raise DivergedError(
            f"The training loss became {row['train:loss']} in epoch {progress.epoch + 1}: lower learning_rate, or set"
            " gradient_clip_norm=1 or precision=fp32."
        )
    if metrics:
        state.best.update(row, progress.epoch, state.weights, training.stopping.min_delta)
    state.history.rows.append(row)
    observer.epoch_done(progress.epoch, row, state.history.rows)
    progress.epoch += 1
    progress.step_in_epoch = 0
    state.totals.clear()
    patience = training.stopping.patience
    if patience is not None and metrics and progress.epoch >= training.stopping.min_epochs:
        epochs_without_gain = progress.epoch - 1 - state.best.improved
        progress.stopped_early = epochs_without_gain >= patience and progress.epoch < training.epochs


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last one may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
