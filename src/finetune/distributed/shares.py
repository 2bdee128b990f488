"""The share of each process in the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from finetune.distributed.virtual_devices import rows_of_shard, shards_of_rank
from finetune.distributed.world import World

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ShardsOfBatches:
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
        return shards_of_rank(self.virtual_devices, self.world.size, self.world.rank)

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield the records of each of the own shards of each batch."""
        for records in batches:
            for shard in self.shards:
                yield records[rows_of_shard(len(records), self.virtual_devices, shard, self.minimum)]


@dataclass(frozen=True, slots=True)
class EveryNthBatch:
    """Whole batches, dealt to the processes in turn, for evaluation.

    Attributes:
        world: The processes of the job.
    """

    world: World

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield the batches of this process."""
        return islice(batches, self.world.rank, None, self.world.size)
