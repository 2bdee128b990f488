"""A disk that fills up during a write costs only that checkpoint; training can go on."""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.checkpoint import BackgroundWriter, CheckpointStore, take_snapshot
from finetune.errors import PlatformError
from tests.checkpoint.states import StaticState, checkpoint_info, is_state_at, make_parts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("needs mount")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of all files written by this process to `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_earlier_checkpoints(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    store.write(take_snapshot(make_parts(1)), checkpoint_info(1))
    before = sorted(small_disk.rglob("*"))
    large = take_snapshot({"model": StaticState({"weight": torch.rand(1 << 20)})})
    with caplog.at_level(logging.WARNING), pytest.raises(PlatformError, match="No space left on device"):
        store.write(large, checkpoint_info(2))
    assert "No space left on device; earlier checkpoints are intact" in caplog.text
    assert sorted(small_disk.rglob("*")) == before
    assert_newest(store, 1)
    store.write(take_snapshot(make_parts(3)), checkpoint_info(3))
    assert_newest(store, 3)


def test_disk_filled_by_another_process(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    store.write(take_snapshot(make_parts(1)), checkpoint_info(1))
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(b"\0" * 4096)
    with BackgroundWriter(store) as writer:
        writer.submit(take_snapshot(make_parts(2)), checkpoint_info(2))
        with pytest.raises(PlatformError, match="No space"):
            writer.submit(take_snapshot(make_parts(3)), checkpoint_info(3))
        with pytest.raises(PlatformError, match="No space"):
            writer.wait()
        assert_newest(store, 1)
        (small_disk / "filler").unlink()
        writer.submit(take_snapshot(make_parts(4)), checkpoint_info(4))
    assert_newest(store, 4)


@given(st.floats(0, 0.9))  # the next manifest may be a few digits shorter
def test_disk_full_at_any_byte(tmp_path_factory: pytest.TempPathFactory, fraction: float) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("full"))
    store.write(take_snapshot(make_parts(1)), checkpoint_info(1))
    before = sorted(store.folder.rglob("*"))
    size = int(fraction * max(path.stat().st_size for path in before if path.is_file()))
    with limit_file_size(size), pytest.raises(PlatformError, match="File too large"):
        store.write(take_snapshot(make_parts(2)), checkpoint_info(2))
    assert sorted(store.folder.rglob("*")) == before
    assert_newest(store, 1)


def test_unwritable_folder_raises_platform_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError):
        CheckpointStore(tmp_path / "file" / "checkpoints").write(take_snapshot(make_parts(1)), checkpoint_info(1))


def assert_newest(store: CheckpointStore, step: int) -> None:
    loaded = store.newest_complete()
    assert loaded is not None
    assert loaded.manifest.info.step == step
    assert is_state_at(loaded.parts, step)
