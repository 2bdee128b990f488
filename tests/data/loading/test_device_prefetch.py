"""Batches reach the device unchanged and one at a time, and only the device waits for copies."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from finetune.data.loading.batches import Batch, Batches
from finetune.data.loading.device_prefetch import OnDevice, SideStream
from tests.support.tiny import TinyReader, tiny_batches

CPU = torch.device("cpu")


class Told:
    """A fake side stream of the device that records the calls to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.joined: list[tuple[int, ...]] = []

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        self.events.append("queue")
        yield
        self.events.append("queued")

    def join(self, tensors: Iterable[Tensor]) -> None:
        self.events.append("join")
        self.joined.append(tuple(tensor.data_ptr() for tensor in tensors))


def batches() -> Batches:
    return tiny_batches(TinyReader(20), training=True, batch_size=6)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.positions for batch in ours] == [batch.positions for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        pixels, expected = one.inputs["pixels"].cpu(), other.inputs["pixels"]
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, expected)
        assert pixels.stride() == expected.stride()
        assert torch.equal(one.targets.cpu(), other.targets)


def test_copied_batches_equal_the_original_batches() -> None:
    moved = OnDevice(batches(), CPU, Told())
    assert moved.channel == "train"
    assert_same(list(moved.iterate(1)), list(batches().iterate(1)))
    assert_same(list(moved.iterate(2, 2)), list(batches().iterate(2, 2)))


def test_each_is_copied_in_the_other_queue_and_joined_before_it_is_handed_out() -> None:
    told = Told()
    for number, batch in enumerate(OnDevice(batches(), CPU, told).iterate(0), 1):
        assert told.events == ["queue", "queued", "join"] * number
        assert told.joined[-1] == (batch.inputs["pixels"].data_ptr(), batch.targets.data_ptr())


class Asked(Batches):
    """Counts the requested batches, and records whether it was closed."""

    asked = 0
    closed = False

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        try:
            for batch in super().iterate(epoch, first):
                self.asked += 1
                yield batch
        finally:
            self.closed = True


def test_batches_are_requested_one_at_a_time_and_closing_closes_the_source() -> None:
    plain = batches()
    source = Asked(plain.dataset, plain._options, plain._bad_records)
    iterator = OnDevice(source, CPU, Told()).iterate(0)
    for number in (1, 2):
        next(iterator)
        assert source.asked == number
    iterator.close()
    assert source.closed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_busy_gpu_receives_identical_batches() -> None:
    device = torch.device("cuda")
    work = torch.rand(4096, 4096, device=device)
    ours = []
    for batch in OnDevice(batches(), device, SideStream(device)).iterate(0):
        work = work @ work / work.norm()
        ours.append(Batch({"pixels": batch.inputs["pixels"].clone()}, batch.targets.clone(), batch.positions))
    assert_same(ours, list(batches().iterate(0)))
