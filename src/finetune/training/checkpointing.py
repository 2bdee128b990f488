"""When the state is written down: often enough that an interruption costs little, seldom enough that saving does."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.checkpoint.manifest import About, Specification
from finetune.checkpoint.snapshot import SnapshotBuffers
from finetune.checkpoint.writer import BackgroundWriter
from finetune.errors import PlatformError
from finetune.training.state import TrainingState

logger = logging.getLogger(__name__)

MOST_COST = 0.01
"""Largest share of a job's time that checkpoints may take, those apart that are asked for every so many steps."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When a checkpoint is due.

    Attributes:
        steps: optimizer steps between two, or `None`; kept whatever it costs.
        seconds: least seconds between two by time, or `None`; more where `MOST_COST` demands it.
    """

    steps: int | None
    seconds: float | None


class Checkpointing:
    """Saves the state beside training: a step waits for a copy in memory, never for the disk.

    A write that fails is told once and costs nothing but itself: earlier checkpoints are intact, and training goes on.

    Attributes:
        stalled: seconds that training waited for copies.
        saved: checkpoints that were begun.
    """

    def __init__(
        self,
        writer: BackgroundWriter,
        specification: Specification,
        cadence: Cadence,
        clock: Callable[[], float] = time.monotonic,
        cores: int | None = None,
    ) -> None:
        """Nothing is saved yet.

        Args:
            writer: who writes beside training.
            specification: of the job.
            cadence: when to save.
            clock: seconds, increasing.
            cores: that training shares with the writing; those that the process may use where it is not said.
        """
        self._writer = writer
        self._specification = specification
        self._cadence = cadence
        self._clock = clock
        self._buffers = SnapshotBuffers()
        self._last_step = 0
        self._last_saved: tuple[int, int] | None = None
        self._last_time = clock()
        self._last_stall = 0.0
        self._worked_before = 0.0
        self._cores = cores or usable_cores()
        self.stalled = 0.0
        self.saved = 0

    def resumed(self, state: TrainingState) -> None:
        """Count from the state that was taken up, which need not be written again."""
        self._note(state)

    def step_done(self, state: TrainingState) -> None:
        """Save where it is due; while an earlier one is still being written, at a later step."""
        # In this order: what a write has cost is known when it is done.
        if not self._writer.busy and self._due(state.progress.step):
            self._save(state, "periodic")

    def epoch_done(self, state: TrainingState) -> None:
        """Save after an epoch; epochs too short to pay for that are saved now and then."""
        if not self._writer.busy and self._pays():
            self._save(state, "epoch")

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Return when this state is written; save it unless it is."""
        self._wait()
        if self._last_saved != (state.progress.epoch, state.progress.step):
            self._save(state, kind)
            self._wait()

    def _due(self, step: int) -> bool:
        by_steps = self._cadence.steps is not None and step - self._last_step >= self._cadence.steps
        by_time = self._cadence.seconds is not None and self._clock() - self._last_time >= self._cadence.seconds
        return by_steps or (by_time and self._pays())

    def _pays(self) -> bool:
        """Whether the last checkpoint's cost is by now a small part of the time since.

        Training waited for its copy, and lost a core to its writing, which no more than slows the others down. A wait
        for the disk costs nothing; while it lasts, no other checkpoint is begun.
        """
        worked = self._writer.cpu_seconds - self._worked_before
        return self._clock() - self._last_time >= (self._last_stall + worked / self._cores) / MOST_COST

    def _save(self, state: TrainingState, kind: str) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # untyped in torch
            # Steps that are still queued are no cost of the copy, by which the next checkpoint's time is chosen.
            torch.cuda.current_stream().synchronize()
        began = self._clock()
        snapshot = self._buffers.take(state.parts())
        best = kind == "epoch" and state.best.epoch == state.progress.epoch - 1
        about = About(state.progress.step, kind, self._specification, best=best)
        self._last_time = self._clock()
        self._last_stall = self._last_time - began
        self._worked_before = self._writer.cpu_seconds
        self.stalled += self._last_stall
        self.saved += 1
        try:
            self._writer.submit(snapshot, about)
        except PlatformError as error:
            logger.warning("%s", error)
        self._note(state)

    def _note(self, state: TrainingState) -> None:
        self._last_step = state.progress.step
        self._last_saved = (state.progress.epoch, state.progress.step)

    def _wait(self) -> None:
        try:
            self._writer.wait()
        except PlatformError as error:
            logger.warning("%s", error)
            self._last_saved = None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
