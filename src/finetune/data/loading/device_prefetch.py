"""Copies batches to the device while it is still computing on the previous batch."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import torch

from finetune.data.loading.batches import Batch, BatchSource
from finetune.data.loading.shares import WHOLE_BATCHES, Share


class DevicePrefetcher:
    """The batches of a `BatchSource`, copied to the device.

    On a GPU, copies from pinned memory run on a secondary CUDA stream with a dedicated copy engine, so they overlap
    with computation on the current stream.

    No batch is requested early, so the stream position and the noted bad records are those of the current step. That is
    early enough: the loop that fills a GPU's queue runs ahead of the GPU, which computes on the previous batch during
    the copy. Integers are transferred (pixels as uint8); the model converts them to floats.
    """

    def __init__(self, batches: BatchSource, device: torch.device) -> None:
        """Initialize without copying any batch.

        Args:
            batches: batches on the host, in pinned memory if copies should overlap with computation.
            device: target device.
        """
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._batches.channel

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the batches of an epoch, starting at batch `first`."""
        with closing(self._batches.iterate(epoch, first, share)) as batches:
            for batch in batches:
                yield self._copy(batch)

    def _copy(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.inputs.items()}
            targets = batch.targets.to(self._device, non_blocking=True)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._stream.record_event())
            for tensor in (*inputs.values(), targets):
                # Without this, the secondary stream could reuse the memory while the current stream reads it.
                tensor.record_stream(current)
        return Batch(inputs, targets, batch.positions)
