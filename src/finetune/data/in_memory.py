"""In-memory reader for records that must be read again after their stream has ended."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config.hyperparameters import TaskName
from finetune.data.record import Record


class InMemoryReader:
    """A `Reader` of a few records in memory."""

    def __init__(
        self, channel: str, task: TaskName, records: Sequence[Record], left_out: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Store records, and the keys and reasons of bad records."""
        self.channel = channel
        self.left_out = tuple(left_out)
        self.task: TaskName = task
        self._records = tuple(records)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._records)

    def key(self, index: int) -> str:
        """Return the key of record `index`."""
        return self._records[index].key

    def labels(self, index: int) -> tuple[str, ...]:
        """Return the class names of record `index`."""
        return self._records[index].labels

    def clue(self, index: int) -> int:
        """Return the number of bytes or characters of record `index`."""
        content = self._records[index].content
        return len(content) if isinstance(content, bytes) else sum(map(len, content))

    def read(self, index: int) -> Record:
        """Return record `index` with its content."""
        return self._records[index]
