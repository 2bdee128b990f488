"""A record of a channel before it is decoded, and what every source of records can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from finetune.config.hyperparameters import Task

Content = bytes | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled thing, still encoded.

    Attributes:
        key: identity inside the channel (relative path, or `file:line`), the same wherever the channel is mounted.
        content: an encoded picture, or the one or two texts of an example.
        labels: names of its classes: exactly one, unless the task is multi-label.
    """

    key: str
    content: Content
    labels: tuple[str, ...]


class Reader(Protocol):
    """Records of one channel, addressable by index. Safe to call from several threads."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    @property
    def task(self) -> Task:
        """What kind of content the records have."""
        ...

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Key of each record that is not among them since it cannot be understood, and why."""
        ...

    def __len__(self) -> int:
        """Number of records."""
        ...

    def key(self, index: int) -> str:
        """Identity of record `index`, without reading its content."""
        ...

    def labels(self, index: int) -> tuple[str, ...]:
        """Class names of record `index`, without reading its content."""
        ...

    def clue(self, index: int) -> int:
        """A number that all records of equal content share, told without reading any; 0 where nothing can be told."""
        ...

    def read(self, index: int) -> Record:
        """Record `index` with its content.

        Raises:
            DataError: the record cannot be read.
        """
        ...
