"""Batches are a pure function of dataset, options and epoch, for any number of threads."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.config.hyperparameters import TaskName
from finetune.data.bad_records import BadRecordError, BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batch, Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.order import epoch_order
from finetune.data.record import Content, Record
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry
from finetune.distributed.shares import ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import DataError

_CLASSES = ("a", "b", "c")
_OPTIONS = BatchOptions(batch_size=4, seed=5, shuffle=True, augment=True, workers=0, pin_memory=False)


class _LoggingReader:
    """An in-memory channel that records which records were read."""

    channel = "train"
    task: TaskName = "image-classification"
    left_out: tuple[tuple[str, str], ...] = ()

    def __init__(self, contents: Sequence[bytes | DataError]) -> None:
        self._contents = contents
        self.read_so_far: list[int] = []

    def __len__(self) -> int:
        return len(self._contents)

    def key(self, index: int) -> str:
        return f"{index:03}.png"

    def labels(self, index: int) -> tuple[str, ...]:
        return (_CLASSES[index % 3],)

    def clue(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Record:
        self.read_so_far.append(index)
        content = self._contents[index]
        if isinstance(content, DataError):
            raise content
        return Record(self.key(index), content, self.labels(index))


class _Numeric:
    """Maps content to its number and a random number; non-numbers are bad records, and 13 raises a bug."""

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        assert isinstance(content, bytes)
        if not content.isdigit():
            raise BadRecordError("is no number")
        assert content != b"13", "unlucky"
        drawn = -1.0 if randomness is None else randomness.random()
        return {"x": torch.tensor([float(content), drawn], dtype=torch.float64)}

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"x": torch.stack([example["x"] for example in examples]) if examples else torch.empty(0, 2)}


def _contents(count: int, bad: Iterable[int] = ()) -> list[bytes | DataError]:
    """Contents without the number 13."""
    bad = set(bad)
    return [b"oops" if index in bad else str(index if index < 13 else index + 1).encode() for index in range(count)]


def _batches(contents: list[bytes | DataError], options: BatchOptions = _OPTIONS, limit: int = 0) -> Batches:
    dataset = Dataset(
        _LoggingReader(contents), tuple(range(len(contents))), LabelMap(_CLASSES, multi_label=False), _Numeric()
    )
    return Batches(dataset, options, BadRecords("train", limit))


def _same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        left.positions == right.positions
        and torch.equal(left.targets, right.targets)
        and left.inputs.keys() == right.inputs.keys()
        and all(torch.equal(left.inputs[name], right.inputs[name]) for name in left.inputs)
        for left, right in zip(first, second, strict=True)
    )


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("data-")]


@pytest.fixture(scope="module")
def images() -> list[bytes | DataError]:
    encoded: list[bytes | DataError] = []
    for index in range(21):
        noise = np.random.Generator(np.random.PCG64(index)).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((60 + index, 50)).save(file, "JPEG" if index % 2 else "PNG")
        encoded.append(file.getvalue())
    return encoded


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_identical_for_any_number_of_workers(workers: int, images: list[bytes | DataError]) -> None:
    transform = ImageTransform(ImageGeometry(32, 36, "bilinear"), "strong")
    dataset = Dataset(_LoggingReader(images), tuple(range(21)), LabelMap(_CLASSES, multi_label=False), transform)
    inline = Batches(dataset, _OPTIONS, BadRecords("train", 0))
    threaded = Batches(dataset, replace(_OPTIONS, workers=workers), BadRecords("train", 0))
    for epoch in (0, 1):
        assert _same(list(inline.iterate(epoch)), list(threaded.iterate(epoch)))
    assert not _same(list(inline.iterate(0)), list(inline.iterate(1)))


@pytest.mark.parametrize("workers", [0, 3])
def test_starting_later_yields_the_remaining_batches_without_reading_earlier_ones(workers: int) -> None:
    whole = list(_batches(_contents(30)).iterate(2))
    for first in (0, 1, 4, 6, 7):
        batches = _batches(_contents(30), replace(_OPTIONS, workers=workers))
        reader = batches.dataset.reader
        assert isinstance(reader, _LoggingReader)
        assert _same(list(batches.iterate(2, first)), whole[first:])
        assert sorted(reader.read_so_far) == sorted(position for batch in whole[first:] for position in batch.positions)


def test_batches_follow_epoch_order() -> None:
    batches = _batches(_contents(13))
    assert len(batches) == 4
    read = list(batches.iterate(1))
    assert [len(batch.positions) for batch in read] == [4, 4, 3, 2]
    assert [position for batch in read for position in batch.positions] == epoch_order(13, 5, 1).tolist()
    for batch in read:
        assert batch.inputs["x"][:, 0].tolist() == list(batch.positions)
        assert batch.targets.tolist() == [position % 3 for position in batch.positions]


def test_batches_without_shuffling_keep_dataset_order() -> None:
    options = replace(_OPTIONS, shuffle=False, augment=False)
    for epoch in (0, 1):
        rows = torch.cat([batch.inputs["x"] for batch in _batches(_contents(11), options).iterate(epoch)])
        assert rows.tolist() == [[float(index), -1.0] for index in range(11)]


def test_positions_count_the_selected_records() -> None:
    dataset = Dataset(_LoggingReader(_contents(12)), (9, 2, 6), LabelMap(_CLASSES, multi_label=False), _Numeric())
    (batch,) = Batches(dataset, replace(_OPTIONS, shuffle=False), BadRecords("train", 0)).iterate(0)
    assert batch.positions == (0, 1, 2)
    assert batch.inputs["x"][:, 0].tolist() == [9, 2, 6]
    assert dataset.key(1) == "002.png"


def test_augmentation_depends_on_the_record_not_its_position() -> None:
    def augmented_values(indices: tuple[int, ...], shuffle: bool) -> dict[float, float]:
        dataset = Dataset(_LoggingReader(_contents(12)), indices, LabelMap(_CLASSES, multi_label=False), _Numeric())
        batches = Batches(dataset, replace(_OPTIONS, shuffle=shuffle), BadRecords("train", 0))
        return {row[0]: row[1] for batch in batches.iterate(3) for row in batch.inputs["x"].tolist()}

    whole = augmented_values(tuple(range(12)), shuffle=True)
    part = augmented_values((11, 3, 7), shuffle=False)
    assert len(set(whole.values())) == 12
    assert part == {number: whole[number] for number in (11, 3, 7)}


def test_multi_label_targets_are_multi_hot() -> None:
    dataset = Dataset(_LoggingReader(_contents(3)), (0, 1, 2), LabelMap(_CLASSES, multi_label=True), _Numeric())
    (batch,) = Batches(dataset, replace(_OPTIONS, shuffle=False), BadRecords("train", 0)).iterate(0)
    assert batch.targets.dtype == torch.float32
    assert torch.equal(batch.targets, torch.eye(3))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_bad_records_are_skipped_and_listed(workers: int) -> None:
    contents = _contents(12, bad=(4, 5, 6, 7, 9))
    contents[2] = DataError("channel 'train': 002.png cannot be read: gone")
    batches = _batches(contents, replace(_OPTIONS, workers=workers, shuffle=False), limit=6)
    for _ in range(2):
        read = list(batches.iterate(0))
        assert [batch.positions for batch in read] == [(0, 1, 3), (), (8, 10, 11)]
        assert [batch.inputs["x"].shape[0] for batch in read] == [3, 0, 3]
        assert read[1].targets.shape == (0,)
        listed = dict(batches._bad_records.listing())
        assert listed["004.png"] == "is no number"
        assert listed["002.png"] == "cannot be read: gone"
        assert len(listed) == 6


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_epoch_fails_at_the_first_bad_record_over_the_limit(workers: int) -> None:
    options = replace(_OPTIONS, workers=workers, shuffle=False)
    iterator = _batches(_contents(24, bad=(5, 14, 15, 20)), options, limit=1).iterate(0)
    assert [next(iterator).positions[0] for _ in range(3)] == [0, 4, 8]
    with pytest.raises(DataError, match=r"channel 'train': 014\.png is no number .*max_bad_records=1"):
        next(iterator)
    assert _threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_errors_are_raised_in_batch_order(workers: int) -> None:
    contents = _contents(16)
    contents[9] = b"13"
    iterator = _batches(contents, replace(_OPTIONS, workers=workers, shuffle=False)).iterate(0)
    assert [next(iterator).positions[0] for _ in range(2)] == [0, 4]
    with pytest.raises(AssertionError, match="unlucky"):
        next(iterator)
    assert _threads() == []


@pytest.mark.parametrize("ending", ["close", "drop", "finish"])
def test_threads_end_with_the_iterator(ending: str) -> None:
    iterator = _batches(_contents(400), replace(_OPTIONS, workers=3)).iterate(0)
    next(iterator)
    assert len(_threads()) == 3
    if ending == "close":
        iterator.close()
    elif ending == "finish":
        assert len(list(iterator)) == 99
    del iterator
    assert _threads() == []


def test_only_a_few_batches_are_prefetched() -> None:
    batches = _batches(_contents(400), replace(_OPTIONS, workers=3, shuffle=False))
    reader = batches.dataset.reader
    assert isinstance(reader, _LoggingReader)
    with closing(batches.iterate(0)) as iterator:
        for number in range(1, 40):
            next(iterator)
            assert max(reader.read_so_far) < 4 * (number + 4)


def test_pin_memory_without_gpu_is_ignored() -> None:
    (batch, *_) = _batches(_contents(8), replace(_OPTIONS, pin_memory=True)).iterate(0)
    assert batch.inputs["x"].is_pinned() == torch.cuda.is_available()


def test_empty_dataset_has_no_batches() -> None:
    batches = _batches([], replace(_OPTIONS, workers=2))
    assert len(batches) == 0
    assert list(batches.iterate(0)) == []


def test_class_without_readable_training_record_is_refused() -> None:
    contents = _contents(9, bad=(1, 4, 7))
    with pytest.raises(
        DataError, match=r"none of the 3 training records of class 'b' can be read: 00\d\.png is no number"
    ):
        list(_batches(contents, limit=9).iterate(0))
    assert len(list(_batches(contents, replace(_OPTIONS, shuffle=False), limit=9).iterate(0))) == 3
    some = _batches(_contents(9, bad=(1, 4)), limit=9)
    assert [len(list(some.iterate(epoch))) for epoch in range(2)] == [3, 3]


def test_bad_records_of_other_processes_count_for_their_class() -> None:
    of_processes = [_batches(_contents(9, bad=(1, 4, 7)), limit=9) for _ in range(2)]
    shares = [ShardsOfBatches(2, World(rank, 2, rank, 2)) for rank in range(2)]
    for batches, share in zip(of_processes, shares, strict=True):
        assert len(list(batches.iterate(0, 0, share))) == 3
    ledgers = [batches._bad_records for batches in of_processes]
    found = [ledger.take_unshared() for ledger in ledgers]
    assert [0 < len(reasons) < 3 for reasons in found] == [True, True]
    for ledger in ledgers:
        ledger.note_shared(found[0] | found[1])
    for batches, share in zip(of_processes, shares, strict=True):
        with pytest.raises(DataError, match="none of the 3 training records of class 'b' can be read"):
            list(batches.iterate(1, 0, share))
