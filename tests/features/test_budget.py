"""All caches together stay within the user's limit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from finetune.data.loading.byte_arena import Room
from finetune.features import budget as module
from finetune.features.budget import CacheBudget, available_memory

CPU = torch.device("cpu")
MB = 10**6


def taken(room: Room, piece: int = 10_000) -> int:
    count = 0
    while room.take(piece) is not None:
        count += piece
    return count


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB of memory, 20 MB of disk."""
    monkeypatch.setattr(module, "available_memory", lambda: 10 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage())


class _Usage:
    free = 20 * MB


@pytest.mark.parametrize(
    ("size_gb", "memory", "room"),
    [(None, 5 * MB, 15 * MB), (0.0, 0, 0), (0.002, 2 * MB, 2 * MB), (0.008, 5 * MB, 8 * MB), (1.0, 5 * MB, 15 * MB)],
)
def test_memory_comes_first_and_the_disk_behind_it(
    size_gb: float | None, memory: int, room: int, tmp_path: Path
) -> None:
    space = CacheBudget(tmp_path, CPU, size_gb)
    assert space.memory() == memory
    assert taken(space.room(space.memory())) == room
    assert taken(space.room(memory // 2, beside=memory - memory // 2)) == room - (memory - memory // 2)


def test_two_kinds_share_what_the_user_allows(tmp_path: Path) -> None:
    assert CacheBudget(tmp_path, CPU, 0.002).half().memory() == MB
    assert CacheBudget(tmp_path, CPU, None).half().memory() == 5 * MB


def test_features_share_what_there_is(tmp_path: Path) -> None:
    place = CacheBudget(tmp_path, CPU, None).place(0.5)
    assert (place.memory_bytes, place.file_bytes, place.device_bytes) == (2.5 * MB, 5 * MB, 0)


def test_some_memory_is_free_on_this_machine() -> None:
    assert available_memory() > 0
