"""Background checkpoint writing: one at a time, in order, with every failure reported once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from finetune.checkpoint import (
    BackgroundWriter,
    CheckpointInfo,
    CheckpointName,
    CheckpointStore,
    Snapshot,
    SnapshotBuffers,
    take_snapshot,
)
from finetune.errors import PlatformError
from tests.checkpoint.states import about, is_state_of, parts_at


class Gate:
    """A target that blocks until released, and fails on request."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.open = threading.Event()
        self.fails: set[int] = set()
        self.threads: set[str] = set()

    def write(self, snapshot: Snapshot, about: CheckpointInfo) -> CheckpointName:
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(60)
        if about.step in self.fails:
            raise PlatformError(f"step {about.step} was not written")
        return self.store.write(snapshot, about)


def newest(store: CheckpointStore) -> int:
    loaded = store.newest_complete()
    assert loaded is not None
    assert is_state_of(loaded.parts, loaded.manifest.info.step)
    return loaded.manifest.info.step


def test_training_continues_during_write(tmp_path: Path) -> None:
    gate = Gate(CheckpointStore(tmp_path))
    with BackgroundWriter(gate) as writer:
        writer.submit(take_snapshot(parts_at(1)), about(1))
        busy_before = writer.busy
        assert gate.store.newest_complete() is None
        gate.open.set()
        writer.wait()
        assert (busy_before, writer.busy) == (True, False)
        assert newest(gate.store) == 1
    assert threading.current_thread().name not in gate.threads


def test_checkpoints_are_written_in_order(tmp_path: Path) -> None:
    store, buffers = CheckpointStore(tmp_path, keep=99), SnapshotBuffers()
    with BackgroundWriter(store) as writer:
        for step in range(20):
            writer.submit(buffers.take(parts_at(step)), about(step))
    assert [name.step for name in store.names()] == list(range(19, -1, -1))
    assert newest(store) == 19
    assert writer.seconds > 0


def test_write_in_flight_keeps_its_memory(tmp_path: Path) -> None:
    gate, buffers = Gate(CheckpointStore(tmp_path)), SnapshotBuffers()
    with BackgroundWriter(gate) as writer:
        writer.submit(buffers.take(parts_at(1)), about(1))
        second = buffers.take(parts_at(2))
        gate.open.set()
        writer.wait()
        assert newest(gate.store) == 1
        writer.submit(second, about(2))
        writer.wait()
        assert newest(gate.store) == 2


@pytest.mark.parametrize("call", ["submit", "wait", "close"])
def test_failure_is_raised_once_by_next_call(tmp_path: Path, call: str) -> None:
    gate = Gate(CheckpointStore(tmp_path))
    gate.open.set()
    gate.fails = {2}
    writer = BackgroundWriter(gate)
    writer.submit(take_snapshot(parts_at(1)), about(1))
    writer.submit(take_snapshot(parts_at(2)), about(2))
    with pytest.raises(PlatformError, match="step 2"):
        if call == "submit":
            writer.submit(take_snapshot(parts_at(3)), about(3))
        elif call == "wait":
            writer.wait()
        else:
            writer.close()
    writer.wait()
    writer.close()
    assert newest(gate.store) == (3 if call == "submit" else 1)


def test_failed_write_releases_memory(tmp_path: Path) -> None:
    gate, buffers = Gate(CheckpointStore(tmp_path)), SnapshotBuffers()
    gate.open.set()
    gate.fails = {1}
    with BackgroundWriter(gate) as writer:
        snapshot = buffers.take(parts_at(1))
        address = snapshot.parts["model"].tensors["weight"].data_ptr()
        writer.submit(snapshot, about(1))
        with pytest.raises(PlatformError):
            writer.wait()
        assert buffers.take(parts_at(2)).parts["model"].tensors["weight"].data_ptr() == address


def test_training_error_is_not_hidden_by_write_error(tmp_path: Path) -> None:
    gate = Gate(CheckpointStore(tmp_path))
    gate.open.set()
    gate.fails = {1}
    with pytest.raises(KeyError), BackgroundWriter(gate) as writer:
        writer.submit(take_snapshot(parts_at(1)), about(1))
        raise KeyError("training")
