"""The memory of a training step is estimated, and the model is sharded only if needed."""

from __future__ import annotations

import re

import pytest

from finetune.distributed.sharding.memory_plan import MemoryMode, ModelMemory, choose_memory_mode, least_memory_mode
from finetune.errors import UserError

GB = 10**9
LARGE = ModelMemory(1_560_000_000, 0, 80_000_000, 20 * GB, 2 * GB)
SMALL = ModelMemory(100_000_000, 10_000_000, 5_000_000, 2 * GB, GB // 2)


@pytest.mark.parametrize(
    ("memory", "device_gb", "devices", "expected"),
    [
        (SMALL, 24, 1, "none"),
        (SMALL, 24, 4, "none"),
        (SMALL, 5, 1, "none"),
        (SMALL, 3, 1, "checkpointing"),
        (SMALL, 3, 8, "checkpointing"),
        (LARGE, 80, 1, "none"),
        (LARGE, 48, 1, "checkpointing"),
        (LARGE, 40, 4, "checkpointing"),
        (LARGE, 24, 4, "full+checkpointing"),
        (ModelMemory(LARGE.trainable, 0, LARGE.largest_unit, 8 * GB, 8 * GB), 24, 4, "full"),
    ],
)
def test_first_fitting_mode_is_chosen(memory: ModelMemory, device_gb: int, devices: int, expected: MemoryMode) -> None:
    choice = choose_memory_mode(memory, [device_gb * GB] * devices, devices)
    assert choice.mode == expected
    assert f"GB of its {device_gb}.0 GB" in choice.reason
    assert (" without sharding" in choice.reason) == (expected != "none")


def test_smallest_device_decides() -> None:
    assert choose_memory_mode(SMALL, [3 * GB, 24 * GB], 2).mode == "checkpointing"


def test_bytes_of_parameters() -> None:
    memory = ModelMemory(1000, 100, 10, 7, 5)
    assert memory.bytes_per_device("none", 1, 1) == 16 * 1000 + 4 * 100 + 7
    assert memory.bytes_per_device("checkpointing", 2, 2) == 16 * 1000 + 4 * 100 + 5
    assert memory.bytes_per_device("full", 2, 2) == 8 * 1000 + 4 * 100 + 7 + 6 * 4 * 10


@pytest.mark.parametrize(
    ("virtual_devices", "processes", "sums"), [(1, 1, 0), (2, 1, 1), (4, 4, 0), (4, 2, 1), (8, 1, 3), (8, 2, 2)]
)
def test_several_shards_per_device_need_partial_sums(virtual_devices: int, processes: int, sums: int) -> None:
    memory = ModelMemory(1000, 0, 0, 0, 0)
    assert memory.bytes_per_device("none", virtual_devices, processes) == (16 + 4 * sums) * 1000


def test_error_states_what_fits() -> None:
    with pytest.raises(UserError) as error:
        choose_memory_mode(LARGE, [16 * GB, 16 * GB], 2)
    pattern = r"use (\d+) devices of this size in a new job, use devices with at least (\d+) GB"
    found = re.search(pattern, str(error.value))
    assert found is not None
    devices, gigabytes = int(found[1]), int(found[2])
    assert choose_memory_mode(LARGE, [16 * GB] * devices, devices).mode == "full+checkpointing"
    assert choose_memory_mode(LARGE, [gigabytes * GB] * 2, 2).mode == "full+checkpointing"
    with pytest.raises(UserError):
        choose_memory_mode(LARGE, [(gigabytes - 1) * GB] * 2, 2)


def test_without_checkpointing_only_sharding_can_help() -> None:
    with pytest.raises(UserError, match="sharded over all devices"):
        choose_memory_mode(LARGE, [16 * GB] * 4, 4, ["none", "full"])


def test_mode_with_the_least_memory() -> None:
    assert least_memory_mode(LARGE, [16 * GB] * 2, 2) == "full+checkpointing"
    assert least_memory_mode(LARGE, [16 * GB] * 2, 2, ["none", "checkpointing"]) == "checkpointing"
    assert least_memory_mode(LARGE, [16 * GB], 1) == "checkpointing"
