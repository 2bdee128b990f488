"""The byte arena allocates memory first, then an anonymous file, within its limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from finetune.data.loading import byte_arena as module
from finetune.data.loading.byte_arena import ByteArena


def fill(arena: ByteArena, size: int) -> int:
    """Write into every allocation, and check that none overlap."""
    buffers: list[Tensor] = []
    while (buffer := arena.allocate(size)) is not None:
        buffers.append(buffer.fill_(len(buffers) % 251))
    assert all((buffer == number % 251).all() for number, buffer in enumerate(buffers))
    return len(buffers)


@pytest.mark.parametrize(("memory", "file", "buffers"), [(0, 0, 0), (1000, 0, 10), (1000, 2000, 30), (0, 950, 9)])
def test_arena_allocates_up_to_its_limits(memory: int, file: int, buffers: int, tmp_path: Path) -> None:
    assert fill(ByteArena(memory, file, tmp_path), 100) == buffers
    assert list(tmp_path.iterdir()) == []


def test_arena_starts_new_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 250)
    assert fill(ByteArena(1000, 1000, tmp_path), 100) == 16
    assert ByteArena(1000, 1000, tmp_path).allocate(251) is None


def test_unwritable_folder_ends_file_allocation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fill(ByteArena(200, 1000, tmp_path / "missing"), 100) == 2
    assert "Cannot extend the cache in" in caplog.text
