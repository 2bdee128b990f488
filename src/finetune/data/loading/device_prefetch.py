"""Copies batches to the device while it is still computing on the previous batch."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, closing
from typing import Protocol

import torch
from torch import Tensor

from finetune.data.loading.batches import Batch, BatchSource


class Beside(Protocol):
    """A secondary device queue whose work overlaps with the main queue."""

    def queue(self) -> AbstractContextManager[object]:
        """Return a context in which device operations are enqueued on the secondary queue."""
        ...

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Make the main queue, but not the host, wait for the secondary queue; it will use these tensors."""
        ...


class SideStream:
    """A secondary CUDA stream.

    Copies from pinned memory run on a dedicated copy engine, so they overlap with computation on the main stream.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the stream."""
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # in torch

    def queue(self) -> AbstractContextManager[object]:
        """Return a context in which this is the current stream."""
        return torch.cuda.stream(self._stream)

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Make the current stream wait for the work enqueued on this stream so far."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._stream.record_event())
        for tensor in tensors:
            # Allocated on this stream: without this, its memory could be reused here while the other stream reads it.
            tensor.record_stream(current)


class OnDevice:
    """The batches of a `BatchSource`, copied to the device.

    No batch is requested early, so the stream position and the noted bad records are those of the current step. That is
    early enough: the loop that fills a GPU's queue runs ahead of the GPU, which computes on the previous batch during
    the copy. Integers are transferred (pixels as uint8); the model converts them to floats.
    """

    def __init__(self, batches: BatchSource, device: torch.device, beside: Beside) -> None:
        """Initialize without copying any batch.

        Args:
            batches: batches on the host, in pinned memory if copies should overlap with computation.
            device: target device.
            beside: secondary queue for the copies.
        """
        self._batches = batches
        self._device = device
        self._beside = beside

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._batches.channel

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, starting at batch `first`."""
        with closing(self._batches.iterate(epoch, first)) as batches:
            for batch in batches:
                yield self._moved(batch)

    def _moved(self, batch: Batch) -> Batch:
        with self._beside.queue():
            inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.inputs.items()}
            targets = batch.targets.to(self._device, non_blocking=True)
        self._beside.join([*inputs.values(), targets])
        return Batch(inputs, targets, batch.positions)
