"""Computes features in all processes of a job, and gives all of them to every process.

Features of a record do not depend on the other records of a batch, so any distribution gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.loading.batches import Batches
from finetune.distributed.world import World
from finetune.errors import JobStopped
from finetune.features.extractor import FeatureChunk, FeatureExtractor

_LISTS_PER_ROUND = 4
"""Lists of records that each process computes between two exchanges, if it computes one at a time."""


class _Header(NamedTuple):
    """What a process tells of a chunk before it sends its features."""

    positions: NDArray[np.int64]
    bad: NDArray[np.int64]
    formats: dict[str, tuple[torch.Size, torch.dtype, bool]]


@dataclass(frozen=True, slots=True)
class FeatureExchange:
    """The processes of a job that need the same features at the same time.

    All processes call the methods in the same order, in the main thread. A process that is to stop takes part until all
    processes have agreed to stop.

    Attributes:
        world: the processes.
        interrupted: returns whether this process is to stop.
        device: device of the features.
    """

    world: World
    interrupted: Callable[[], bool]
    device: torch.device

    def rounds(
        self, extractor: FeatureExtractor, batches: Batches, positions: Sequence[int], view: int
    ) -> Generator[list[FeatureChunk], None, None]:
        """Deal records to the processes, and yield the chunks that this process has computed in each round.

        Args:
            extractor: computes the features.
            batches: reads and transforms records.
            positions: dataset positions of the records, the same in all processes.
            view: number of the augmented view.

        Raises:
            JobStopped: a process is to stop; raised in all processes.
            ProcessLostError: another process has ended.
        """
        world = self.world
        size = extractor.list_size(len(positions), world.size)
        lists = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
        own = [position for positions_of_list in lists[world.rank :: world.size] for position in positions_of_list]
        step = world.size * (max(_LISTS_PER_ROUND, extractor.concurrency) if extractor.max_length == 1 else 1)
        with closing(extractor.compute(batches, own, view, size)) as computed:
            for start in range(0, len(lists), step):
                count = sum(map(len, lists[start + world.rank : start + step : world.size]))
                chunks = self._take(computed, count)
                if world.any(chunks is None) or chunks is None:
                    raise JobStopped
                yield chunks

    def _take(self, computed: Iterator[FeatureChunk], records: int) -> list[FeatureChunk] | None:
        """Return the chunks of the next `records` records; `None` if this process is to stop."""
        chunks: list[FeatureChunk] = []
        while records:
            if self.interrupted():
                return None
            chunk = next(computed)
            records -= len(chunk.positions) + len(chunk.bad)
            chunks.append(chunk)
        return chunks

    def headers(self, chunks: Sequence[FeatureChunk]) -> list[list[_Header]]:
        """Return the headers of the chunks of every process, by rank.

        Raises:
            ProcessLostError: another process has ended.
        """
        return self.world.all_gather(
            [
                _Header(
                    chunk.positions,
                    chunk.bad,
                    {
                        name: (value.shape, value.dtype, _is_channels_last(value))
                        for name, value in chunk.features.items()
                    },
                )
                for chunk in chunks
            ]
        )

    def receive(
        self, chunks: Sequence[FeatureChunk], headers: Sequence[Sequence[_Header]]
    ) -> Iterator[tuple[int, FeatureChunk]]:
        """Yield the chunks of all processes, each with the rank of its process; all processes take all of them.

        Raises:
            ProcessLostError: another process has ended.
        """
        for rank, headers_of_rank in enumerate(headers):
            for index, header in enumerate(headers_of_rank):
                own = chunks[index].features if rank == self.world.rank else None
                features = {
                    name: self._exchanged(rank, *header.formats[name], None if own is None else own[name])
                    for name in header.formats
                }
                yield rank, FeatureChunk(header.positions, features, header.bad)

    def _exchanged(
        self, rank: int, shape: torch.Size, dtype: torch.dtype, is_channels_last: bool, own: Tensor | None
    ) -> Tensor:
        if is_channels_last:
            count, channels, height, width = shape
            shape = torch.Size((count, height, width, channels))
            own = None if own is None else own.permute(0, 2, 3, 1)
        sent = torch.empty(shape, dtype=dtype, device=self.device) if own is None else own.contiguous()
        self.world.copy_from(rank, sent)
        return sent.permute(0, 3, 1, 2) if is_channels_last else sent


def _is_channels_last(value: Tensor) -> bool:
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
