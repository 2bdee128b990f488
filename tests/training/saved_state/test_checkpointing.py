"""Checkpoints are written when due; those at automatic step intervals only if they are worth their cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import cast

import pytest
import torch

from finetune.checkpoint import BackgroundWriter, CheckpointInfo, CheckpointName, Snapshot, Specification
from finetune.errors import PlatformError
from finetune.training.saved_state.checkpointing import Cadence, Checkpointing
from finetune.training.saved_state.state import History, Progress, Stateful, TrainingState


@dataclass
class RecordingStore:
    """Records the written checkpoints; one kind fails."""

    failing: str = ""
    written: list[tuple[int, str]] = field(default_factory=list)

    def write(self, snapshot: Snapshot, info: CheckpointInfo) -> CheckpointName:
        if info.kind == self.failing:
            raise PlatformError("disk full")
        self.written.append((info.step, info.kind))
        return CheckpointName(info.step, len(self.written))


@dataclass
class SlowState:
    """A stateful object whose copy takes time on the clock."""

    now: float = 0.0
    copy_seconds: float = 0.0

    def __call__(self) -> float:
        return self.now

    def state_dict(self) -> dict[str, object]:
        self.now += self.copy_seconds
        return {"weight": torch.zeros(2)}

    def load_state_dict(self, state: dict[str, object], /) -> None:
        raise NotImplementedError


@dataclass
class State:
    """The part of a training state that checkpointing reads."""

    clock: SlowState
    progress: Progress = field(default_factory=Progress)
    best: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)

    def parts(self) -> dict[str, Stateful]:
        return {"clock": self.clock}


def train(
    cadence: Cadence, clock: SlowState, target: RecordingStore, steps: int, *, epoch: int = 0
) -> list[tuple[int, str]]:
    """Run one step per second, with an epoch end every `epoch` steps, then the final checkpoint."""
    state = State(clock)
    as_training_state = cast("TrainingState", state)
    with BackgroundWriter(target) as writer:
        checkpoints = Checkpointing(writer, Specification.of({}), cadence, clock)
        for step in range(1, steps + 1):
            clock.now += 1.0
            state.progress.step = step
            checkpoints.step_done(as_training_state)
            wait(writer)
            if epoch and step % epoch == 0:
                state.progress.epoch += 1
                checkpoints.epoch_done(as_training_state)
                wait(writer)
        checkpoints.save_now(as_training_state, "final")
    return target.written


def wait(writer: BackgroundWriter) -> None:
    """Wait until nothing is in flight, ignoring failures."""
    while writer.busy:
        pass


def test_step_interval_applies_regardless_of_cost() -> None:
    written = train(Cadence(3, None), SlowState(copy_seconds=50.0), RecordingStore(), 10)
    assert written == [(3, "periodic"), (6, "periodic"), (9, "periodic"), (10, "final")]


def test_time_interval_saves_every_few_seconds() -> None:
    written = train(Cadence(None, 4.0), SlowState(), RecordingStore(), 10)
    assert written == [(4, "periodic"), (8, "periodic"), (10, "final")]


def test_time_interval_is_extended_to_limit_the_cost() -> None:
    written = train(Cadence(None, 4.0), SlowState(copy_seconds=0.15), RecordingStore(), 60)
    assert [step for step, _ in written] == [4, 20, 36, 52, 60]


def test_short_epochs_are_saved_only_when_worth_the_cost() -> None:
    written = train(Cadence(None, None), SlowState(copy_seconds=0.09), RecordingStore(), 30, epoch=2)
    assert [checkpoint for checkpoint in written if checkpoint[1] == "epoch"] == [
        (2, "epoch"),
        (12, "epoch"),
        (22, "epoch"),
    ]


def test_last_checkpoint_is_not_written_twice() -> None:
    assert train(Cadence(5, None), SlowState(), RecordingStore(), 10) == [(5, "periodic"), (10, "periodic")]


def test_failed_write_logs_a_warning_and_training_continues(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert train(Cadence(4, None), SlowState(), RecordingStore(failing="periodic"), 9) == [(9, "final")]
    assert caplog.messages == ["disk full", "disk full"]
