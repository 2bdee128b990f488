"""Small labeled data: records in memory, and the data section of a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.config.hyperparameters import DataSpec, TaskName
from finetune.data.record import Content, Record


def data_spec(**changes: object) -> DataSpec:
    """The data section of a request without hyperparameters, with some fields replaced."""
    return DataSpec().model_copy(update=changes)


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    """Write files by relative path and return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    for key, content in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return root


class MemoryReader:
    """A reader over (content, labels) pairs, keyed by position."""

    channel = "train"
    left_out: tuple[tuple[str, str], ...] = ()

    def __init__(
        self, records: Sequence[tuple[Content, tuple[str, ...]]], task: TaskName = "text-classification"
    ) -> None:
        self.task = task
        self._records = list(records)

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        return f"record-{index}"

    def labels(self, index: int) -> tuple[str, ...]:
        return self._records[index][1]

    def clue(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Record:
        content, labels = self._records[index]
        return Record(self.key(index), content, labels)
