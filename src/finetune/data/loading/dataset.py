"""Which records of a channel make up a part of the data, and what makes examples of them?"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.data.labels import LabelMap
from finetune.data.record import Reader
from finetune.data.transforms.base import Transform


@dataclass(frozen=True, slots=True)
class Part:
    """Records of a reader that serve one purpose."""

    reader: Reader
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Some records of a channel, and what makes examples of them.

    Attributes:
        reader: of the channel.
        indices: which of the reader's records; a *position* counts in this tuple.
        label_map: numbers the classes.
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
        """Identity of the record at `position`."""
        return self.reader.key(self.indices[position])
