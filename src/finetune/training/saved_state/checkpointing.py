"""Decides when to save checkpoints, limiting both the work lost by an interruption and the cost of saving."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.checkpoint.manifest import CheckpointInfo, Specification
from finetune.checkpoint.snapshot import SnapshotBuffers
from finetune.checkpoint.writer import BackgroundWriter
from finetune.distributed.virtual_devices import ONE_DEVICE, VirtualDevices
from finetune.errors import PlatformError
from finetune.runtime.threads import usable_cores
from finetune.training.saved_state.state import TrainingState

logger = logging.getLogger(__name__)

MAX_COST_SHARE = 0.01
"""Maximum share of a job's time spent on checkpoints; those saved every `steps` optimizer steps are exempt."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When a checkpoint is due.

    Attributes:
        steps: Optimizer steps between checkpoints, or `None`; applies regardless of the cost.
        seconds: Minimum seconds between time-based checkpoints, or `None`; extended if `MAX_COST_SHARE` requires it.
    """

    steps: int | None
    seconds: float | None


class Checkpointing:
    """Saves the state in the background: a step waits for a copy in memory, but never for the disk.

    A failed write is reported once and is not fatal: earlier checkpoints stay intact, and training continues.

    Attributes:
        stalled: Seconds that training waited for copies.
        saved: Number of checkpoints started.
    """

    def __init__(  # noqa: PLR0913  # by keyword
        self,
        writer: BackgroundWriter,
        specification: Specification,
        cadence: Cadence,
        clock: Callable[[], float] = time.monotonic,
        cores: int | None = None,
        *,
        devices: VirtualDevices = ONE_DEVICE,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        """Initialize without a saved checkpoint.

        Args:
            writer: Background writer.
            specification: Specification of the job.
            cadence: When to save.
            clock: Monotonic clock in seconds.
            cores: CPU cores shared by training and writing; defaults to the cores usable by this process.
            devices: Virtual devices of the job.
            agree: Called with every decision whether to save, to tell it to the processes that take part in saving.
        """
        self._writer = writer
        self._specification = specification
        self._cadence = cadence
        self._devices = devices
        self._agree = agree
        self._clock = clock
        self._buffers = SnapshotBuffers()
        self._last_step = 0
        self._last_saved: tuple[int, int, int] | None = None
        self._last_time = clock()
        self._last_copy_seconds = 0.0
        self._cpu_seconds_before = 0.0
        self._cores = cores or usable_cores()
        self.stalled = 0.0
        self.saved = 0

    def resumed(self, state: TrainingState) -> None:
        """Count from the resumed state, which does not have to be saved again."""
        self._mark_saved(state)

    def step_done(self, state: TrainingState) -> None:
        """Save if a checkpoint is due; postponed to a later step while the previous one is being written."""
        # Check `busy` first: the cost of a write is only known once it is finished.
        if self._agree(not self._writer.busy and self._due(state.progress.step)):
            self._save(state, "periodic")

    def epoch_done(self, state: TrainingState) -> None:
        """Save after an epoch, unless the time since the last checkpoint is too short for its cost."""
        if self._agree(not self._writer.busy and self._is_worthwhile()):
            self._save(state, "epoch")

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Save this state unless already saved, and return once it is written."""
        self._wait_for_writer()
        if self._agree(self._last_saved != _position(state)):
            self._save(state, kind)
            self._wait_for_writer()

    def _due(self, step: int) -> bool:
        by_steps = self._cadence.steps is not None and step - self._last_step >= self._cadence.steps
        by_time = self._cadence.seconds is not None and self._clock() - self._last_time >= self._cadence.seconds
        return by_steps or (by_time and self._is_worthwhile())

    def _is_worthwhile(self) -> bool:
        """Whether the last checkpoint's cost is a small enough share of the time since then.

        The cost is the time that training waited for the copy, plus the CPU time of the writer divided by the number of
        cores, because writing at most slows down the other cores. Waiting for the disk costs nothing; no other
        checkpoint is started during it.
        """
        cpu_seconds = self._writer.cpu_seconds - self._cpu_seconds_before
        return self._clock() - self._last_time >= (self._last_copy_seconds + cpu_seconds / self._cores) / MAX_COST_SHARE

    def _save(self, state: TrainingState, kind: str) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # untyped in torch
            # Exclude steps still queued on the GPU from the measured cost, which determines the time of the next
            # checkpoint.
            torch.cuda.current_stream().synchronize()
        start = self._clock()
        snapshot = self._buffers.take(state.parts())
        best = kind == "epoch" and state.best.epoch == state.progress.epoch - 1
        info = CheckpointInfo(
            state.progress.step, kind, self._specification, best, self._devices.count, self._devices.threads
        )
        self._last_time = self._clock()
        self._last_copy_seconds = self._last_time - start
        self._cpu_seconds_before = self._writer.cpu_seconds
        self.stalled += self._last_copy_seconds
        self.saved += 1
        try:
            self._writer.submit(snapshot, info)
        except PlatformError as error:
            logger.warning("%s", error)
        self._mark_saved(state)

    def _mark_saved(self, state: TrainingState) -> None:
        self._last_step = state.progress.step
        self._last_saved = _position(state)

    def _wait_for_writer(self) -> None:
        try:
            self._writer.wait()
        except PlatformError as error:
            logger.warning("%s", error)
            self._last_saved = None


def _position(state: TrainingState) -> tuple[int, int, int]:
    """Return the position of a state in the job: epoch, step, and number of averages evaluated after the last epoch."""
    return state.progress.epoch, state.progress.step, len(state.history.averages)


class SavedByMain:
    """Takes part in the checkpoints of a sharded model, which the main process decides on, gathers and writes."""

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        """Initialize.

        Args:
            agree: Returns the decision of the main process.
        """
        self._agree = agree

    def step_done(self, state: TrainingState) -> None:
        """Take part if the main process saves after this step."""
        self._take_part(state)

    def epoch_done(self, state: TrainingState) -> None:
        """Take part if the main process saves after this epoch."""
        self._take_part(state)

    def save_now(self, state: TrainingState, kind: str) -> None:
        """Take part unless the main process has saved this state already."""
        del kind
        self._take_part(state)

    def _take_part(self, state: TrainingState) -> None:
        if self._agree(False):
            # The parts with sharded tensors, in the order in which the main process gathers them.
            state.weights.state_dict()
            state.optimizer.state_dict()
            state.average.state_dict()
