"""How do batches get to the device while it still works on the one before?"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, closing
from typing import Protocol

import torch
from torch import Tensor

from finetune.data.loading.batches import Batch, BatchSource


class Beside(Protocol):
    """Work that a device does beside what is in its main queue."""

    def queue(self) -> AbstractContextManager[object]:
        """Whatever is asked of the device meanwhile goes into a queue of its own."""
        ...

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Let the main queue, and nobody else, wait for all of that; it will use these tensors."""
        ...


class SideStream:
    """A second stream of a GPU.

    A copy from pinned memory is done by an engine of its own, so it runs while the main stream computes.
    """

    def __init__(self, device: torch.device) -> None:
        """Open the stream."""
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # in torch

    def queue(self) -> AbstractContextManager[object]:
        """Make it the current stream."""
        return torch.cuda.stream(self._stream)

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Have the current stream wait for what is in this one now."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._stream.record_event())
        for tensor in tensors:
            # Allocated on this stream, so its memory could be given out again here while the other still reads it.
            tensor.record_stream(current)


class OnDevice:
    """The same batches, already on the device.

    Nothing is asked for before its turn: the position of a stream, and what is noted of bad records, stay those of the
    step that is taken. That is early enough, because a GPU is behind the loop that fills its queue: while a batch is
    copied it works on the one before. Whole numbers travel, pixels as bytes; the network makes floats of them.
    """

    def __init__(self, batches: BatchSource, device: torch.device, beside: Beside) -> None:
        """Move nothing yet.

        Args:
            batches: on the host, in pinned memory where copies are to run beside computing.
            device: where they are wanted.
            beside: where copies are queued.
        """
        self._batches = batches
        self._device = device
        self._beside = beside

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._batches.channel

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number `first` on."""
        with closing(self._batches.iterate(epoch, first)) as batches:
            for batch in batches:
                yield self._moved(batch)

    def _moved(self, batch: Batch) -> Batch:
        with self._beside.queue():
            inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.inputs.items()}
            targets = batch.targets.to(self._device, non_blocking=True)
        self._beside.join([*inputs.values(), targets])
        return Batch(inputs, targets, batch.positions)
