"""The sum of shards has the same bits for any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.distributed.fixed_order import (
    Block,
    FixedOrderSum,
    aligned_blocks,
    all_reduce_in_fixed_order,
)
from finetune.distributed.virtual_devices import shards_of_rank
from finetune.distributed.world import World
from tests.support.processes import run_processes

ELEMENTS = 1001


def shard(index: int) -> Tensor:
    """Numbers of very different magnitude, whose sum depends on the order of additions."""
    generator = torch.Generator().manual_seed(index)
    exponents = 6 * torch.rand(ELEMENTS, generator=generator) - 3
    return torch.randn(ELEMENTS, generator=generator) * 10**exponents


def recursive_sum(shards: list[Tensor]) -> Tensor:
    """The definition of RFC 6962: the left half has as many leaves as the largest power of two below their number."""
    if len(shards) == 1:
        return shards[0]
    half = 1
    while 2 * half < len(shards):
        half *= 2
    return recursive_sum(shards[:half]) + recursive_sum(shards[half:])


def own_sums(virtual_devices: int, world: World) -> FixedOrderSum:
    sums = FixedOrderSum()
    for index in shards_of_rank(virtual_devices, world.size, world.rank):
        sums.add(Block(index, 1), [shard(index)])
    return sums


@pytest.mark.parametrize("virtual_devices", range(1, 34))
def test_order_is_that_of_the_tree_for_any_number_of_processes(virtual_devices: int) -> None:
    expected = recursive_sum([shard(index) for index in range(virtual_devices)])
    for size in range(1, virtual_devices + 1):
        total = FixedOrderSum()
        for rank in range(size):
            own = own_sums(virtual_devices, World(rank, size, rank))
            assert own.blocks == aligned_blocks(shards_of_rank(virtual_devices, size, rank))
            for block, tensors in zip(own.blocks, own.partial_sums, strict=True):
                total.add(block, tensors)
        assert torch.equal(total.total()[0], expected), size


def test_plain_sum_has_other_bits() -> None:
    shards = [shard(index) for index in range(8)]
    assert not torch.equal(sum(shards[1:], shards[0]), recursive_sum(shards))


def test_few_partial_sums_are_held() -> None:
    sums = FixedOrderSum()
    for index in range(100):
        sums.add(Block(index, 1), [shard(index)])
        assert len(sums.blocks) <= 7


def test_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no block"):
        FixedOrderSum().total()


def test_more_processes_than_virtual_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="3 processes share 2 virtual devices"):
        all_reduce_in_fixed_order([shard(0)], 2, World(0, 3))


def test_blocks_of_other_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 blocks, got 2"):
        all_reduce_in_fixed_order([shard(0), shard(1)], 2, World())


def reduce(world: World, folder: Path) -> None:
    for virtual_devices in (size for size in (4, 5, 8) if size >= world.size):
        for elements in (ELEMENTS, 1, 4 * world.size):
            sums = own_sums(virtual_devices, world)
            blocks = [tensors[0][:elements].clone() for tensors in sums.partial_sums]
            total = all_reduce_in_fixed_order(blocks, virtual_devices, world)
            torch.save(total, folder / f"{virtual_devices} {elements} {world.size} {world.rank}")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_get_the_bits_of_a_single_one(tmp_path: Path, size: int) -> None:
    reduce(World(), tmp_path)
    run_processes(size, reduce, tmp_path)
    compared = 0
    for path in tmp_path.iterdir():
        virtual_devices, elements, of_size, _ = path.name.split()
        if int(of_size) == size and int(elements) in (ELEMENTS, 1):
            expected = torch.load(tmp_path / f"{virtual_devices} {elements} 1 0")
            assert torch.equal(torch.load(path), expected), path.name
            compared += 1
    assert compared == size * 2 * 3


def reduce_in_two_levels(world: World, folder: Path) -> None:
    hosts = 2
    local_size = world.size // hosts
    host, local_rank = divmod(world.rank, local_size)
    reduce(World(world.rank, world.size, local_rank, local_size, host, hosts).with_levels(), folder)


def test_two_levels_give_the_same_bits(tmp_path: Path) -> None:
    reduce(World(), tmp_path)
    run_processes(4, reduce_in_two_levels, tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.name.split()[2] == "4"}
    assert len(names) == 4 * 3 * 3
    for name in names:
        virtual_devices, elements, _, rank = name.split()
        expected = torch.load(tmp_path / f"{virtual_devices} {elements} {'1' if elements != '16' else '4'} 0")
        assert torch.equal(torch.load(tmp_path / name), expected), (name, rank)
