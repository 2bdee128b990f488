"""The byte arena allocates memory first, then an anonymous file, within its limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from finetune.data.loading import byte_arena as module
from finetune.data.loading.byte_arena import Room


def fill(room: Room, size: int) -> int:
    """Write into every allocation, and check that none overlap."""
    pieces: list[Tensor] = []
    while (piece := room.take(size)) is not None:
        pieces.append(piece.fill_(len(pieces) % 251))
    assert all((piece == number % 251).all() for number, piece in enumerate(pieces))
    return len(pieces)


@pytest.mark.parametrize(("memory", "file", "pieces"), [(0, 0, 0), (1000, 0, 10), (1000, 2000, 30), (0, 950, 9)])
def test_there_is_room_for_what_is_allowed(memory: int, file: int, pieces: int, tmp_path: Path) -> None:
    assert fill(Room(memory, file, tmp_path), 100) == pieces
    assert list(tmp_path.iterdir()) == []


def test_segments_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT", 250)
    assert fill(Room(1000, 1000, tmp_path), 100) == 16
    assert Room(1000, 1000, tmp_path).take(251) is None


def test_a_folder_that_cannot_be_written_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fill(Room(200, 1000, tmp_path / "missing"), 100) == 2
    assert "No more is kept in" in caplog.text
