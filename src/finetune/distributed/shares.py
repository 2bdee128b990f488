"""The share of each process in the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from finetune.distributed.virtual_devices import rows_of_shard, shards_of_rank
from finetune.distributed.world import World

_T = TypeVar("_T")


class WorldShare:
    """Place of this process among the processes of its host."""

    __slots__ = ()
    world: World

    @property
    def local_rank(self) -> int:
        """Index of this process among the processes of this host."""
        return self.world.local_rank

    @property
    def local_size(self) -> int:
        """Number of processes of this host."""
        return self.world.local_size

    def rank_of(self, local_rank: int) -> int:
        """Return the rank of a process of this host."""
        return self.world.rank - self.world.local_rank + local_rank


@dataclass(frozen=True, slots=True)
class ShardsOfBatches(WorldShare):
    """The shards of this process in every batch, for training: one list of records per shard, possibly empty.

    Attributes:
        virtual_devices: Number of shards of every batch.
        world: The processes of the job.
        minimum: Minimum number of records of a shard.
    """

    virtual_devices: int
    world: World
    minimum: int = 1

    @property
    def shards(self) -> range:
        """The shards of this process."""
        return self._shards_of(self.local_rank)

    def of_host(self) -> ShardsOfBatches:
        """Return the shards of this process in batches of this host, which are divided among its processes alone."""
        host = [self._shards_of(local_rank) for local_rank in range(self.local_size)]
        return ShardsOfHostBatches(self.virtual_devices, self.world, self.minimum, range(host[0].start, host[-1].stop))

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield the records of each of the own shards of each batch."""
        for records in batches:
            for shard in self.shards:
                yield records[self._slice(len(records), shard)]

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return the rows of each shard of a process of this host."""
        del number
        count = len(identities)
        return [range(count)[self._slice(count, shard)] for shard in self._shards_of(local_rank)]

    def _shards_of(self, local_rank: int) -> range:
        return shards_of_rank(self.virtual_devices, self.world.size, self.rank_of(local_rank))

    def _slice(self, records: int, shard: int) -> slice:
        return rows_of_shard(records, self.virtual_devices, shard, self.minimum)


@dataclass(frozen=True, slots=True)
class ShardsOfHostBatches(ShardsOfBatches):
    """The shards of this process in every batch of this host.

    Attributes:
        host_shards: The shards of this host.
    """

    host_shards: range = range(1)

    def _slice(self, records: int, shard: int) -> slice:
        return rows_of_shard(records, len(self.host_shards), shard - self.host_shards.start, self.minimum)


@dataclass(frozen=True, slots=True)
class EveryNthBatch(WorldShare):
    """Whole batches, dealt to the processes in turn, for evaluation.

    Attributes:
        world: The processes of the job.
    """

    world: World

    def of_host(self) -> EveryNthBatch:
        """Return the batches of this process, if those of this host are dealt to its processes alone."""
        return EveryNthBatch(World(self.local_rank, self.local_size, self.local_rank, self.local_size))

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield the batches of this process."""
        return islice(batches, self.world.rank, None, self.world.size)

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return all rows of a batch for one of the processes, and none for the others."""
        return [range(len(identities))] if number % self.world.size == self.rank_of(local_rank) else []


@dataclass(frozen=True, slots=True)
class ReplicatedBatches(WorldShare):
    """Whole batches, the same ones in all processes.

    Attributes:
        world: The processes of the job.
    """

    world: World

    def of_host(self) -> ReplicatedBatches:
        """Fail: records of other hosts cannot be replicated.

        Raises:
            ValueError: Always.
        """
        raise ValueError("hosts that have their own records cannot all prepare the same batches")

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield every batch."""
        return iter(batches)

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return all rows."""
        del number, local_rank
        return [range(len(identities))]
