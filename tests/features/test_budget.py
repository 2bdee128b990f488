"""All caches together stay within the user's limit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from finetune.data.loading.byte_arena import ByteArena
from finetune.features import budget as budget_module
from finetune.features.budget import CacheBudget, available_memory

CPU = torch.device("cpu")
MB = 10**6


def allocated_bytes(arena: ByteArena, size: int = 10_000) -> int:
    count = 0
    while arena.allocate(size) is not None:
        count += size
    return count


@pytest.fixture(autouse=True)
def limited_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB of memory, 20 MB of disk."""
    monkeypatch.setattr(budget_module, "available_memory", lambda: 10 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage())


class _Usage:
    free = 20 * MB


@pytest.mark.parametrize(
    ("size_gb", "memory", "total_bytes"),
    [(None, 5 * MB, 15 * MB), (0.0, 0, 0), (0.002, 2 * MB, 2 * MB), (0.008, 5 * MB, 8 * MB), (1.0, 5 * MB, 15 * MB)],
)
def test_arena_uses_memory_first_then_disk(
    size_gb: float | None, memory: int, total_bytes: int, tmp_path: Path
) -> None:
    budget = CacheBudget(tmp_path, CPU, size_gb)
    assert budget.memory_bytes() == memory
    assert allocated_bytes(ByteArena(*budget.byte_limits(budget.memory_bytes()), tmp_path)) == total_bytes
    used = memory - memory // 2
    assert allocated_bytes(ByteArena(*budget.byte_limits(memory // 2, used_bytes=used), tmp_path)) == total_bytes - used


def test_halved_budget_halves_only_the_limit_of_the_user(tmp_path: Path) -> None:
    assert CacheBudget(tmp_path, CPU, 0.002).halved().memory_bytes() == MB
    assert CacheBudget(tmp_path, CPU, None).halved().memory_bytes() == 5 * MB


def test_processes_that_do_not_share_caches_divide_the_budget(tmp_path: Path) -> None:
    divided = CacheBudget(tmp_path, CPU, 0.008).divided(4)
    assert divided.memory_bytes() == 1.25 * MB
    assert sum(divided.byte_limits(divided.memory_bytes())) == 2 * MB
    assert divided.store_limits(1).file_bytes == 2 * MB


def test_store_limits_are_a_share_of_the_budget(tmp_path: Path) -> None:
    limits = CacheBudget(tmp_path, CPU, None).store_limits(0.5)
    assert (limits.memory_bytes, limits.file_bytes, limits.device_bytes) == (2.5 * MB, 5 * MB, 0)


def test_available_memory_is_positive() -> None:
    assert available_memory() > 0
