"""Interface of the share of a process in the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Share(Protocol):
    """Selects the records that this process prepares."""

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield this process's lists of records, given the records of every batch in order."""
        ...


class WholeBatches:
    """The share of a process that prepares all batches as they are."""

    def select(self, batches: Iterable[Sequence[_T]]) -> Iterator[Sequence[_T]]:
        """Yield every batch."""
        return iter(batches)


WHOLE_BATCHES = WholeBatches()
