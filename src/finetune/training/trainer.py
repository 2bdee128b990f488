"""The loop: epochs of steps, an evaluation after each, and a question after every step whether to go on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.errors import DataError, DivergedError, JobStopped
from finetune.runtime.threads import few_threads
from finetune.strategies.freezing import apply_trainable
from finetune.strategies.plan import Phase, Plan
from finetune.training.inputs import Feeds
from finetune.training.optimizers import set_rates
from finetune.training.schedule import Schedule
from finetune.training.state import Row, TrainingState
from finetune.training.step import Stepper


class Observer(Protocol):
    """Somebody who is told how training goes, and changes nothing."""

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """The epoch of `state.progress` begins, or is taken up again."""
        ...

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """A step is done; `loss` is its mean loss, on the device."""
        ...

    def epoch_done(self, epoch: int, row: Row, history: list[Row]) -> None:
        """Epoch `epoch` is trained and evaluated, with these metrics; `history` has those of every epoch."""
        ...


class Checkpoints(Protocol):
    """Somebody who writes the state down."""

    def step_done(self, state: TrainingState) -> None:
        """A step is done: a good moment to save, if it is time."""
        ...

    def epoch_done(self, state: TrainingState) -> None:
        """An epoch is done, its evaluation included."""
        ...

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Training ended or was interrupted: return when the state is safe."""
        ...


class NoCheckpoints:
    """Writes nothing down."""

    def step_done(self, state: TrainingState) -> None:
        """Let it pass."""

    def epoch_done(self, state: TrainingState) -> None:
        """Let it pass."""

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Let it pass."""


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """When to give up.

    Attributes:
        patience: epochs without improvement, or `None` for never.
        min_delta: gain in accuracy that counts as an improvement.
        min_epochs: epochs that are trained in any case.
    """

    patience: int | None = None
    min_delta: float = 0.0
    min_epochs: int = 0


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, on what, by which plan.

    Attributes:
        feeds: where the batches of a phase come from.
        accumulation: batches per optimizer step.
        evaluate: metrics of the network as it is, on the validation records; `None` when interrupted meanwhile.
        interrupted: whether the job was asked to stop.
    """

    stepper: Stepper
    plan: Plan
    schedule: Schedule
    feeds: Feeds
    epochs: int
    accumulation: int
    stopping: EarlyStopping
    evaluate: Callable[[], Row | None]
    interrupted: Callable[[], bool]


def steps_per_epoch(batches: int, accumulation: int) -> int:
    """Optimizer steps of an epoch; the last one takes the batches that are left."""
    return math.ceil(batches / accumulation)


def fit(training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints) -> bool:
    """Train from wherever the state stands.

    Returns:
        Whether the training is finished; otherwise it was interrupted, between two steps or in an evaluation, and
        the state can be taken up from there.

    Raises:
        DivergedError: the loss is no longer a number; the history's last row says so, too.
    """
    progress = state.progress
    while not progress.stopped_early and progress.epoch < training.epochs:
        if training.interrupted() or not _train_epoch(training, state, observer, checkpoints):
            return False
        with training.stepper.timing.host("evaluate"):
            metrics = training.evaluate()
        if metrics is None:
            return False
        _close_epoch(training, state, observer, metrics)
        with training.stepper.timing.host("save"):
            checkpoints.epoch_done(state)
    return True


def restore_best(state: TrainingState) -> None:
    """Put the best epoch's weights into the network, where they were kept.

    Apart from `fit`, so that the state of a finished job is that of its last step, and more epochs may follow it.
    """
    if state.best.weights:
        state.weights.load_state_dict(state.best.weights)


def _train_epoch(training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints) -> bool:
    progress = state.progress
    phase = training.plan.phase(progress.epoch)
    apply_trainable(training.stepper.backbone, phase.trainable)
    observer.epoch_begins(state, phase)
    feed = training.feeds.training(phase)
    batches = feed.source.iterate(progress.epoch, progress.step_in_epoch * training.accumulation)
    timing = training.stepper.timing
    timing.pause()
    with few_threads(alone=feed.alone), closing(batches), suppress(JobStopped):
        for group in timing.waited(_grouped(batches, training.accumulation)):
            set_rates(training.stepper.optimizer, training.schedule(progress.step))
            loss = training.stepper.take(group, progress.step, state.totals, feed.forward)
            progress.step += 1
            progress.step_in_epoch += 1
            observer.step_done(state, loss)
            with timing.host("save"):
                checkpoints.step_done(state)
            timing.step_done(sum(given.numel() for batch in group for given in batch.inputs.values()))
            if training.interrupted():
                return False
        return True
    return False


def _close_epoch(training: Training, state: TrainingState, observer: Observer, metrics: Row) -> None:
    progress = state.progress
    if progress.step_in_epoch and not state.totals.records:
        raise DataError(
            f"Nothing was learnt from in epoch {progress.epoch + 1}: no training record can be read, or each stands"
            " alone in its batch, of which batch normalisation learns nothing. Add records, or mend those that the"
            " warnings name."
        )
    row = {f"train:{name}": value for name, value in state.totals.means().items()} | metrics
    if not math.isfinite(row["train:loss"]):
        state.history.rows.append(row)
        raise DivergedError(
            f"The training loss became {row['train:loss']} in epoch {progress.epoch + 1}: lower learning_rate, or set"
            " gradient_clip_norm=1 or precision=fp32."
        )
    if metrics:
        state.best.offer(row, progress.epoch, state.weights, training.stopping.min_delta)
    state.history.rows.append(row)
    observer.epoch_done(progress.epoch, row, state.history.rows)
    progress.epoch += 1
    progress.step_in_epoch = 0
    state.totals.clear()
    patience = training.stopping.patience
    if patience is not None and metrics and progress.epoch >= training.stopping.min_epochs:
        waited = progress.epoch - 1 - state.best.improved
        progress.stopped_early = waited >= patience and progress.epoch < training.epochs


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
