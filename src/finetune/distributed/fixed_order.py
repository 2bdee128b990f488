"""Sums of the shards of a global batch in a fixed order, whichever processes compute the shards.

The order is a binary tree that depends only on the number of shards: blocks of 2^k shards that start at a multiple of
2^k are summed first, and the remaining blocks are folded from the right (the tree of RFC 6962, section 2.1). A process
sums the largest such blocks among its consecutive shards and exchanges only these; every further addition follows the
same tree. Additions are elementwise, so dividing tensors into buckets and chunks does not change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

from finetune.distributed.virtual_devices import shards_of_rank
from finetune.distributed.world import World, lost_processes


class Block(NamedTuple):
    """Consecutive shards `[start, start + size)`; `size` is a power of two and divides `start`."""

    start: int
    size: int


def aligned_blocks(shards: range) -> list[Block]:
    """Return the fewest aligned blocks that cover consecutive shards."""
    blocks: list[Block] = []
    for shard in shards:
        blocks.append(Block(shard, 1))
        while len(blocks) > 1 and _are_halves(blocks[-2], blocks[-1]):
            blocks[-2:] = [Block(blocks[-2].start, 2 * blocks[-2].size)]
    return blocks


class FixedOrderSum:
    """Running sum of blocks that are added in their order; holds at most log2(shards) + 1 partial sums per tensor."""

    def __init__(self) -> None:
        self._partial: list[tuple[Block, list[Tensor]]] = []

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the partial sums."""
        return [block for block, _ in self._partial]

    @property
    def partial_sums(self) -> list[list[Tensor]]:
        """The tensors of each partial sum."""
        return [tensors for _, tensors in self._partial]

    def add(self, block: Block, tensors: Sequence[Tensor]) -> None:
        """Add the sums of the next block; the tensors may be overwritten."""
        self._partial.append((block, list(tensors)))
        while len(self._partial) > 1 and _are_halves(self._partial[-2][0], self._partial[-1][0]):
            self._merge_last_two()

    def total(self) -> list[Tensor]:
        """Return the sums over all added blocks.

        Raises:
            ValueError: No block was added.
        """
        if not self._partial:
            raise ValueError("there is no block to sum")
        while len(self._partial) > 1:
            self._merge_last_two()
        return self._partial[0][1]

    def _merge_last_two(self) -> None:
        (left, sums), (right, addends) = self._partial[-2:]
        torch._foreach_add_(sums, addends)
        self._partial[-2:] = [(Block(left.start, left.size + right.size), sums)]


def all_reduce_in_fixed_order(blocks: Sequence[Tensor], virtual_devices: int, world: World) -> Tensor:
    """Return the sum over the shards of all processes: the same bits in every process, for any number of processes.

    A reduce-scatter, made of an all-to-all and local sums in the order of the tree, and an all-gather. With one block
    per process, it sends as many bytes as a ring: `2 (size - 1) / size` times the tensor. Several hosts are a second
    level: each process exchanges the sums of its host's shards, for its chunk of the tensor, with one process of every
    other host, so that a host sends `2 (hosts - 1) / hosts` times the tensor if its shards are one block.

    Args:
        blocks: Float tensors `[elements]`, one for each of the process's `aligned_blocks`; may be overwritten.
        virtual_devices: Number of shards in the world; at least `world.size`.
        world: The processes, each of which calls this function.

    Raises:
        ValueError: The number of blocks is not that of the process's shards, or a process has no shard.
        ProcessLostError: Another process has ended.
    """
    if virtual_devices < world.size:
        raise ValueError(f"{world.size} processes share {virtual_devices} virtual devices: each needs at least one")
    shards = [shards_of_rank(virtual_devices, world.size, rank) for rank in range(world.size)]
    own = aligned_blocks(shards[world.rank])
    if len(blocks) != len(own):
        raise ValueError(f"expected {len(own)} blocks, got {len(blocks)}")
    if world.size == 1:
        return _sum(own, blocks)
    if world.levels is None:
        return _reduced_over(_Members(shards, world.rank, world.group), blocks)
    first = world.host * world.local_size
    local = _Members(shards[first : first + world.local_size], world.local_rank, world.levels.local)
    of_host = _scattered_sum(local, blocks)
    shards_of_hosts = [
        range(shards[start].start, shards[start + world.local_size - 1].stop)
        for start in range(0, world.size, world.local_size)
    ]
    between = _Members(shards_of_hosts, world.host, world.levels.between)
    reduced = _reduced_over(between, [tensors[0] for tensors in of_host.partial_sums])
    return _gathered(local, reduced)[: blocks[0].numel()]


@dataclass(frozen=True, slots=True)
class _Members:
    """Processes that exchange sums, or hosts represented by one process each.

    Attributes:
        shards: The consecutive shards of each of them.
        index: Which of them this process is.
        group: Process group of these processes; `None` for all processes of the job.
    """

    shards: Sequence[range]
    index: int
    group: ProcessGroup | None


def _reduced_over(members: _Members, blocks: Sequence[Tensor]) -> Tensor:
    """Return the sum over the shards of all members, `[elements]`."""
    reduced = _scattered_sum(members, blocks).total()[0]
    return _gathered(members, reduced)[: blocks[0].numel()]


def _scattered_sum(members: _Members, blocks: Sequence[Tensor]) -> FixedOrderSum:
    """Return the partial sums of a chunk of all tensors, a different chunk for each member.

    Args:
        members: The members.
        blocks: Tensors `[elements]`, one for each aligned block of this member.
    """
    size = len(members.shards)
    chunk = -(-blocks[0].numel() // size)
    sent = _chunks_by_rank(blocks, size, chunk)
    of_members = [aligned_blocks(shards) for shards in members.shards]
    received = sent.new_empty((sum(map(len, of_members)), chunk))
    with lost_processes():
        torch.distributed.all_to_all_single(
            received.view(-1),
            sent.view(-1),
            [len(of_member) * chunk for of_member in of_members],
            [len(blocks) * chunk] * size,
            group=members.group,
        )
    partial = FixedOrderSum()
    for block, tensor in zip((block for of_member in of_members for block in of_member), received, strict=True):
        partial.add(block, [tensor])
    return partial


def _gathered(members: _Members, chunk: Tensor) -> Tensor:
    """Return the chunks of all members, one after the other."""
    gathered = chunk.new_empty(len(members.shards) * chunk.numel())
    with lost_processes():
        torch.distributed.all_gather_into_tensor(gathered, chunk, group=members.group)
    return gathered


def _are_halves(left: Block, right: Block) -> bool:
    return left.size == right.size and left.start % (2 * left.size) == 0


def _sum(blocks: Sequence[Block], tensors: Sequence[Tensor]) -> Tensor:
    total = FixedOrderSum()
    for block, tensor in zip(blocks, tensors, strict=True):
        total.add(block, [tensor])
    return total.total()[0]


def _chunks_by_rank(blocks: Sequence[Tensor], size: int, chunk: int) -> Tensor:
    """Lay out equal chunks of every block as `[size, blocks, chunk]`, padded with zeros."""
    elements = blocks[0].numel()
    if len(blocks) == 1 and elements == size * chunk:
        return blocks[0].view(size, 1, chunk)
    laid_out = blocks[0].new_zeros((size, len(blocks), chunk))
    for index, block in enumerate(blocks):
        for rank, part in enumerate(torch.split(block, chunk)):
            laid_out[rank, index, : part.numel()] = part
    return laid_out
