"""Bounds on the cost of an interruption and of checkpoints, for any state, number of cores and disk."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.checkpoint import BackgroundWriter, CheckpointInfo, Snapshot, Specification
from finetune.config.descriptions import all_hyperparameters
from finetune.training.saved_state.checkpointing import MAX_COST_SHARE, Cadence, Checkpointing
from finetune.training.saved_state.state import History, Progress, Stateful, TrainingState

INTERVAL = float(all_hyperparameters()["checkpoint_interval_seconds"].default)
HOURS = 3600.0


@dataclass
class Machine:
    """A job's state whose copy takes time, and a background writer; both use this clock.

    Attributes:
        copy: seconds per copy.
        work: CPU seconds per write.
        disk: seconds from the start to the end of a write, including the work.
        copied: when each checkpoint was taken.
        written: when each was complete; the last one may be pending.
    """

    copy: float
    work: float
    disk: float
    now: float = 0.0
    progress: Progress = field(default_factory=Progress)
    best: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)
    copied: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def parts(self) -> dict[str, Stateful]:
        return {"machine": self}

    def state_dict(self) -> dict[str, object]:
        self.copied.append(self.now)
        self.now += self.copy
        return {"weight": torch.zeros(1)}

    def load_state_dict(self, state: dict[str, object], /) -> None:
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        return bool(self.written) and self.now < self.written[-1]

    @property
    def cpu_seconds(self) -> float:
        return self.work * sum(at <= self.now for at in self.written)

    def submit(self, snapshot: Snapshot, info: CheckpointInfo) -> None:
        assert not self.busy
        snapshot.release()
        self.written.append(self.now + max(self.disk, self.work))


def train(machine: Machine, cores: int, step: float, epoch: int) -> Machine:
    """An hour of steps, with the default interval and an epoch end every `epoch` steps."""
    writer, state = cast("BackgroundWriter", machine), cast("TrainingState", machine)
    checkpoints = Checkpointing(writer, Specification.of({}), Cadence(None, INTERVAL), machine, cores)
    for number in itertools.count(1):
        if machine.now > HOURS:
            return machine
        machine.now += step
        machine.progress.step = number
        checkpoints.step_done(state)
        if number % epoch == 0:
            machine.progress.epoch += 1
            checkpoints.epoch_done(state)
    raise AssertionError


def max_lost_seconds(machine: Machine) -> float:
    """Maximum seconds of training since the newest complete checkpoint, just before the next one is complete."""
    starts = [0.0, *machine.copied]
    return max(end - start for start, end in zip(starts, machine.written, strict=False))


@given(st.floats(0.0, 0.3), st.floats(0.0, 0.3), st.floats(0.0, 29.0), st.integers(1, 64), st.integers(1, 5000))
def test_at_most_a_minute_is_lost_with_a_fast_copy_and_disk(
    copy: float, share: float, disk: float, cores: int, epoch: int
) -> None:
    """If copy and work together take at most 0.3 s, and the disk is done before the next checkpoint is due."""
    machine = train(Machine(copy * (1 - share / 0.3), min(disk, copy * share / 0.3 * cores), disk), cores, 2.0, epoch)
    assert max_lost_seconds(machine) <= INTERVAL + 29.0 + 3.0


@given(st.floats(0.0, 60.0), st.floats(0.0, 600.0), st.floats(0.0, 600.0), st.integers(1, 64), st.integers(1, 5000))
def test_checkpoints_cost_at_most_one_percent(copy: float, work: float, disk: float, cores: int, epoch: int) -> None:
    """Of the time up to the last checkpoint, which has yet to earn its own cost."""
    machine = train(Machine(copy, work, disk), cores, 2.0, epoch)
    count = len(machine.copied) - 1
    assert count >= 0
    assert count * (copy + work / cores) <= MAX_COST_SHARE * machine.copied[-1] * (1 + 1e-9)


@pytest.mark.parametrize("disk", [45.0, 300.0])
def test_slow_disk_is_always_busy_and_never_blocks_steps(disk: float) -> None:
    machine = train(Machine(0.1, 0.2, disk), 4, 0.5, 10_000)
    assert max_lost_seconds(machine) <= 2 * disk + 2.0
    assert len(machine.copied) >= HOURS / (disk + 2.0) - 1
