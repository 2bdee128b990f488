"""Datasets: selected records of a channel, with the transform that turns them into examples."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.data.labels import LabelMap
from finetune.data.record import Reader
from finetune.data.transforms.base import Transform


@dataclass(frozen=True, slots=True)
class Subset:
    """Records of a reader that serve one purpose."""

    reader: Reader
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Selected records of a channel, with the transform that turns them into examples.

    Attributes:
        reader: reader of the channel.
        indices: reader indices of the selected records; a *position* is an index into this tuple.
        label_map: maps class names to class indices.
        transform: makes examples and batches.
    """

    reader: Reader
    indices: tuple[int, ...]
    label_map: LabelMap
    transform: Transform

    def __len__(self) -> int:
        """Number of records."""
        return len(self.indices)

    def key(self, position: int) -> str:
        """Return the key of the record at `position`."""
        return self.reader.key(self.indices[position])
