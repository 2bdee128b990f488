"""Who makes an example of a record: anew each time, or from what was kept of it?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.record import Content
from finetune.data.transforms.base import Transform


class Examples(Protocol):
    """Who makes an example of the record at a position, and may keep what is the same in every epoch."""

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make an example, as a `Transform` does; `read` gives the record's content where it is needed."""
        ...


@dataclass(frozen=True, slots=True)
class MadeAnew:
    """Examples of which nothing is kept."""

    transform: Transform

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make it of the content."""
        del position
        return self.transform(read(), randomness)
