"""Shards of virtual devices."""

from __future__ import annotations

import pytest

from finetune.distributed.virtual_devices import rows_of_shard, shard_seed, shards_of_rank


@pytest.mark.parametrize("virtual_devices", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 20])
def test_each_shard_belongs_to_one_process(virtual_devices: int, world_size: int) -> None:
    shards = [shards_of_rank(virtual_devices, world_size, rank) for rank in range(world_size)]
    assert [shard for of_rank in shards for shard in of_rank] == list(range(virtual_devices))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("records", "virtual_devices"), [(32, 8), (27, 8), (3, 8), (0, 4), (64, 1), (65, 6)])
def test_each_row_belongs_to_one_shard(records: int, virtual_devices: int) -> None:
    rows = [list(range(records))[rows_of_shard(records, virtual_devices, shard)] for shard in range(virtual_devices)]
    assert [row for of_shard in rows for row in of_shard] == list(range(records))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_seed_of_a_single_device_is_that_of_earlier_versions() -> None:
    assert shard_seed(7, 12) == shard_seed(7, 12, 0) == 7185106867092587855


def test_seeds_of_shards_differ() -> None:
    seeds = {shard_seed(7, step, shard) for step in range(10) for shard in range(10)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
