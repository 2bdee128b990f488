"""Observers that log the progress and the metrics of training, in epochs or of a solved head."""

from __future__ import annotations

import logging
import time

from torch import Tensor

from finetune.config.hyperparameters import RunSpec
from finetune.job.data.loaders import Loaders
from finetune.monitoring.dialect_lines import DialectLines
from finetune.monitoring.metric_lines import metric_line, solved_line
from finetune.monitoring.progress import ProgressLogger, format_duration
from finetune.monitoring.waiting import DataWait, waiting_line
from finetune.runtime.threads import usable_cores
from finetune.strategies.plan import Phase
from finetune.training.saved_state.run_history import RunHistoryFile, process_age
from finetune.training.saved_state.state import EpochMetrics, TrainingState
from finetune.training.trainer import Training

logger = logging.getLogger(__name__)


class LogObserver:
    """Logs a line per epoch and progress within long ones, and updates the run history after every step."""

    def __init__(
        self,
        progress: ProgressLogger,
        history: RunHistoryFile,
        loaders: Loaders,
        spec: RunSpec,
        dialect: DialectLines,
        training: Training,
    ) -> None:
        self._progress = progress
        self._history = history
        self._loaders = loaders
        self._spec = spec
        self._dialect = dialect
        self._training = training
        self._waited_before = 0.0
        self._records_before = 0
        self._is_first = True

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Log the trainable groups when they change."""
        epoch = state.progress.epoch
        if phase.first_epoch == epoch and epoch > 0:
            logger.info("epoch %d: unfroze layer groups; now trainable: %s", epoch + 1, ", ".join(phase.trainable))
        self._progress.begin(epoch, state.progress.step_in_epoch)
        self._records_before = state.totals.records
        self._waited_before = self._loaders.wait_seconds()

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Log the progress within the epoch when it is due."""
        del loss
        self._history.step_done(state.progress.step)
        if self._is_first:
            self._is_first = False
            logger.info("first batch trained %.1f s after the start of the process", process_age())
        if self._progress.due():
            done = state.totals.records - self._records_before
            self._progress.update(state.progress.step_in_epoch, done, state.totals.means()["loss"])

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Log the metrics of an epoch, its duration, and time lost waiting for batches."""
        del history
        learning_rate = float(self._training.stepper.optimizer.param_groups[-1]["lr"])
        others = self._dialect.epoch(epoch, self._training.epochs, row, learning_rate)
        for line in (metric_line(epoch, row), *others):
            logger.info("%s", line)
        seconds = self._progress.seconds()
        logger.info("epoch %d took %s", epoch + 1, format_duration(seconds))
        train = self._loaders.train
        waited, is_set = self._loaders.wait_seconds() - self._waited_before, self._spec.workers is not None
        size = train.prefetcher.size if train else 0
        waiting = waiting_line(epoch, DataWait(waited, seconds, size, usable_cores(), is_set))
        if waiting:
            logger.info("%s", waiting)


class SolvedHeadLogObserver:
    """Logs the metrics of a solved head, and updates the run history."""

    def __init__(self, history: RunHistoryFile) -> None:
        self._history = history
        self._started = 0.0

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """End the start of the job: the pass over the records begins."""
        del phase
        self._started = time.monotonic()
        self._history.step_done(state.progress.step)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Log the time of the pass and of the solve."""
        del loss
        self._history.step_done(state.progress.step)
        solution = state.history.solution
        if solution is not None:
            seconds = format_duration(time.monotonic() - self._started)
            logger.info(
                "solved the head on %d records in %s: strength=%.4f", solution["records"], seconds, solution["strength"]
            )

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Log the metrics."""
        del epoch, history
        logger.info("%s", solved_line(row))
