"""Encoded records of a channel, and the reader interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from finetune.config.hyperparameters import TaskName

Content = bytes | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A labeled record, still encoded.

    Attributes:
        key: key within the channel (relative path, or `file:line`), independent of where the channel is mounted.
        content: an encoded image, or the one or two texts of an example.
        labels: class names: exactly one, unless the task is multi-label.
    """

    key: str
    content: Content
    labels: tuple[str, ...]


class Reader(Protocol):
    """Records of one channel, addressable by index. Thread-safe."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    @property
    def task(self) -> TaskName:
        """Task of the records, which determines the type of their content."""
        ...

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Key and reason of each record that is excluded because it cannot be decoded."""
        ...

    def __len__(self) -> int:
        """Number of records."""
        ...

    def key(self, index: int) -> str:
        """Return the key of record `index`, without reading its content."""
        ...

    def labels(self, index: int) -> tuple[str, ...]:
        """Return the class names of record `index`, without reading its content."""
        ...

    def clue(self, index: int) -> int:
        """Return a number shared by all records of equal content, without reading any; 0 if none is available."""
        ...

    def read(self, index: int) -> Record:
        """Return record `index` with its content.

        Raises:
            DataError: the record cannot be read.
        """
        ...
