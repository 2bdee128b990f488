"""Records that are held in memory, for whoever needs to read them again after their stream is gone."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config.hyperparameters import Task
from finetune.data.record import Record


class KeptRecords:
    """A few records; a `Reader`."""

    def __init__(
        self, channel: str, task: Task, records: Sequence[Record], left_out: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Hold records, and the keys and reasons of those that cannot be used."""
        self.channel = channel
        self.left_out = tuple(left_out)
        self.task: Task = task
        self._records = tuple(records)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._records)

    def key(self, index: int) -> str:
        """Identity of record `index`."""
        return self._records[index].key

    def labels(self, index: int) -> tuple[str, ...]:
        """Class names of record `index`."""
        return self._records[index].labels

    def clue(self, index: int) -> int:
        """Bytes or characters of record `index`."""
        content = self._records[index].content
        return len(content) if isinstance(content, bytes) else sum(map(len, content))

    def read(self, index: int) -> Record:
        """Record `index` with its content."""
        return self._records[index]
