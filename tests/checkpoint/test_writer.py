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
from tests.checkpoint.states import checkpoint_info, is_state_at, make_parts


class BlockingTarget:
    """A target that blocks until released, and fails on request."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.open = threading.Event()
        self.fails: set[int] = set()
        self.threads: set[str] = set()

    def write(self, snapshot: Snapshot, checkpoint_info: CheckpointInfo) -> CheckpointName:
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(60)
        if checkpoint_info.step in self.fails:
            raise PlatformError(f"step {checkpoint_info.step} was not written")
        return self.store.write(snapshot, checkpoint_info)


def newest(store: CheckpointStore) -> int:
    loaded = store.newest_complete()
    assert loaded is not None
    assert is_state_at(loaded.parts, loaded.manifest.info.step)
    return loaded.manifest.info.step


def test_training_continues_during_write(tmp_path: Path) -> None:
    target = BlockingTarget(CheckpointStore(tmp_path))
    with BackgroundWriter(target) as writer:
        writer.submit(take_snapshot(make_parts(1)), checkpoint_info(1))
        busy_before = writer.busy
        assert target.store.newest_complete() is None
        target.open.set()
        writer.wait()
        assert (busy_before, writer.busy) == (True, False)
        assert newest(target.store) == 1
    assert threading.current_thread().name not in target.threads


def test_checkpoints_are_written_in_order(tmp_path: Path) -> None:
    store, buffers = CheckpointStore(tmp_path, keep=99), SnapshotBuffers()
    with BackgroundWriter(store) as writer:
        for step in range(20):
            writer.submit(buffers.take(make_parts(step)), checkpoint_info(step))
    assert [name.step for name in store.names()] == list(range(19, -1, -1))
    assert newest(store) == 19
    assert writer.seconds > 0


def test_write_in_flight_keeps_its_memory(tmp_path: Path) -> None:
    target, buffers = BlockingTarget(CheckpointStore(tmp_path)), SnapshotBuffers()
    with BackgroundWriter(target) as writer:
        writer.submit(buffers.take(make_parts(1)), checkpoint_info(1))
        second = buffers.take(make_parts(2))
        target.open.set()
        writer.wait()
        assert newest(target.store) == 1
        writer.submit(second, checkpoint_info(2))
        writer.wait()
        assert newest(target.store) == 2


@pytest.mark.parametrize("call", ["submit", "wait", "close"])
def test_failure_is_raised_once_by_next_call(tmp_path: Path, call: str) -> None:
    target = BlockingTarget(CheckpointStore(tmp_path))
    target.open.set()
    target.fails = {2}
    writer = BackgroundWriter(target)
    writer.submit(take_snapshot(make_parts(1)), checkpoint_info(1))
    writer.submit(take_snapshot(make_parts(2)), checkpoint_info(2))
    with pytest.raises(PlatformError, match="step 2"):
        if call == "submit":
            writer.submit(take_snapshot(make_parts(3)), checkpoint_info(3))
        elif call == "wait":
            writer.wait()
        else:
            writer.close()
    writer.wait()
    writer.close()
    assert newest(target.store) == (3 if call == "submit" else 1)


def test_failed_write_releases_memory(tmp_path: Path) -> None:
    target, buffers = BlockingTarget(CheckpointStore(tmp_path)), SnapshotBuffers()
    target.open.set()
    target.fails = {1}
    with BackgroundWriter(target) as writer:
        snapshot = buffers.take(make_parts(1))
        address = snapshot.parts["model"].tensors["weight"].data_ptr()
        writer.submit(snapshot, checkpoint_info(1))
        with pytest.raises(PlatformError):
            writer.wait()
        assert buffers.take(make_parts(2)).parts["model"].tensors["weight"].data_ptr() == address


def test_training_error_is_not_hidden_by_write_error(tmp_path: Path) -> None:
    target = BlockingTarget(CheckpointStore(tmp_path))
    target.open.set()
    target.fails = {1}
    with pytest.raises(KeyError), BackgroundWriter(target) as writer:
        writer.submit(take_snapshot(make_parts(1)), checkpoint_info(1))
        raise KeyError("training")
