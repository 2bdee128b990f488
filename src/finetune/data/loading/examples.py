"""Example factories: the interface, and the implementation without a cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.record import Content
from finetune.data.transforms.base import Transform


class ExampleFactory(Protocol):
    """Makes the example of the record at a position, and may cache the part that is the same in every epoch."""

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make an example as a `Transform` does; `read` returns the record's content and is called only if needed."""
        ...


@dataclass(frozen=True, slots=True)
class UncachedExamples:
    """Uncached examples: every example is made from the record's content."""

    transform: Transform

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make the example from the content."""
        del position
        return self.transform(read(), randomness)
