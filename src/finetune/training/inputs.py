"""Interfaces that provide the batches of a training phase and the part of the model that they enter."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.loading.batches import Batch, BatchSource
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.models.backbone import Outputs
from finetune.strategies.plan import Phase


class Source(Protocol):
    """Batches of records, or of the features that frozen layers compute from them."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the batches of an epoch, starting with batch number `first`."""
        ...


@dataclass(frozen=True, slots=True)
class PhaseInputs:
    """Batches and the part of the model that they enter.

    Attributes:
        single_threaded: Whether that part is so small that a single CPU thread is fastest.
        replicated: Whether every process trains that part on whole batches, as the time to exchange gradients would
            exceed that of a step. The result is that of a single process.
        in_lockstep: Whether such processes have to agree before every step, since they exchange parts of the batches.
        takes_features: Whether the batches enter after the frozen layers.
    """

    source: Source
    forward: Callable[[Mapping[str, Tensor]], Outputs]
    single_threaded: bool = False
    replicated: bool = False
    in_lockstep: bool = False
    takes_features: bool = False


class InputProvider(Protocol):
    """Provides the inputs of each phase."""

    @property
    def records(self) -> BatchSource:
        """The training records in the same batches."""
        ...

    def training(self, phase: Phase) -> PhaseInputs:
        """Return the inputs of a phase."""
        ...
