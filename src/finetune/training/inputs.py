"""Where do the batches of a phase come from, and which part of the network do they enter?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.loading.batches import Batch, BatchSource
from finetune.models.backbone import Outputs
from finetune.strategies.plan import Phase, Plan


class Source(Protocol):
    """Batches of records, or of what frozen layers make of them."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number `first` on."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """Batches, and the part of the network that they enter.

    Attributes:
        alone: whether that part computes so little that a CPU is fastest with a single thread.
    """

    source: Source
    forward: Callable[[Mapping[str, Tensor]], Outputs]
    alone: bool = False


class Feeds(Protocol):
    """Who knows where the batches of a phase come from."""

    @property
    def records(self) -> BatchSource:
        """The training records themselves, in the same batches."""
        ...

    def training(self, phase: Phase) -> Feed:
        """What the phase trains on."""
        ...


def border_of(plan: Plan, phase: Phase) -> int:
    """Number of layer groups, from the input on, that do not learn in the phase and did not learn before it."""
    learned = {
        name for earlier in plan.phases if earlier.first_epoch <= phase.first_epoch for name in earlier.trainable
    }
    return next((at for at, name in enumerate(plan.groups) if name in learned), len(plan.groups))
