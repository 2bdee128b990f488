"""Batches reach the device unchanged and one at a time."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from finetune.data.loading.batches import Batch, Batches
from finetune.data.loading.device_prefetch import DevicePrefetcher
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from tests.support.tiny import TinyReader, tiny_batches

CPU = torch.device("cpu")


def batches() -> Batches:
    return tiny_batches(TinyReader(20), training=True, batch_size=6)


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    assert [batch.positions for batch in batches] == [batch.positions for batch in expected]
    for batch, expected_batch in zip(batches, expected, strict=True):
        pixels, expected_pixels = batch.inputs["pixels"].cpu(), expected_batch.inputs["pixels"]
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, expected_pixels)
        assert pixels.stride() == expected_pixels.stride()
        assert torch.equal(batch.targets.cpu(), expected_batch.targets)


def test_copied_batches_equal_the_original_batches() -> None:
    copied = DevicePrefetcher(batches(), CPU)
    assert copied.channel == "train"
    assert_same(list(copied.iterate(1)), list(batches().iterate(1)))
    assert_same(list(copied.iterate(2, 2)), list(batches().iterate(2, 2)))


class CountingBatches(Batches):
    """Counts the requested batches, and records whether it was closed."""

    requested = 0
    closed = False

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        try:
            for batch in super().iterate(epoch, first, share):
                self.requested += 1
                yield batch
        finally:
            self.closed = True


def test_batches_are_requested_one_at_a_time_and_closing_closes_the_source() -> None:
    plain = batches()
    source = CountingBatches(plain.dataset, plain._options, plain._bad_records)
    iterator = DevicePrefetcher(source, CPU).iterate(0)
    for number in (1, 2):
        next(iterator)
        assert source.requested == number
    iterator.close()
    assert source.closed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_busy_gpu_receives_identical_batches() -> None:
    device = torch.device("cuda")
    work = torch.rand(4096, 4096, device=device)
    copied = []
    for batch in DevicePrefetcher(batches(), device).iterate(0):
        work = work @ work / work.norm()
        copied.append(Batch({"pixels": batch.inputs["pixels"].clone()}, batch.targets.clone(), batch.positions))
    assert_same(copied, list(batches().iterate(0)))
