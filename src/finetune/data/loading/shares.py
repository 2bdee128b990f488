"""Interface of the share of a process in the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class RowShare(Protocol):
    """Selects rows of every batch for each process of this host, of which one reads the records for all."""

    @property
    def local_rank(self) -> int:
        """Index of this process among the processes of this host that take part."""
        ...

    @property
    def local_size(self) -> int:
        """Number of processes of this host that take part."""
        ...

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return the rows of a batch that a process prepares, one list for each batch that it makes of them.

        Args:
            number: number of the batch since the beginning of the iteration.
            identities: identities of all records of the batch.
            local_rank: the process.
        """
        ...


class Share(RowShare, Protocol):
    """Selects the records that this process prepares, whatever they are."""

    def of_host(self) -> Share:
        """Return the share in batches of this host, if every host has its own records."""
        ...

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield this process's lists of records, given the records of every batch in order."""
        ...


class WholeBatches:
    """The share of a single process, which prepares all batches as they are.

    Attributes:
        local_rank: always 0.
        local_size: always 1.
    """

    local_rank = 0
    local_size = 1

    def of_host(self) -> Share:
        """Return all batches of this host."""
        return self

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield every batch."""
        return iter(batches)

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return all rows."""
        del number, local_rank
        return [range(len(identities))]


WHOLE_BATCHES = WholeBatches()
