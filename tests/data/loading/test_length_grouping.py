"""Length-grouped batches: little padding, every record once, and identical for any start and number of threads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finetune.config.hyperparameters import TaskName
from finetune.data.bad_records import BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.length_grouping import group_by_length, split_into_pools
from finetune.data.loading.order import batch_bounds
from finetune.data.record import Content, Record
from finetune.errors import DataError

OPTIONS = BatchOptions(4, seed=3, shuffle=True, augment=False, workers=0, pin_memory=False, length=len)
COUNT = 403
UNREADABLE = 7


class Texts:
    """A channel of byte strings with one unreadable record; it logs the requested records."""

    channel = "train"
    task: TaskName = "text-classification"
    left_out: tuple[tuple[str, str], ...] = ()

    def __init__(self) -> None:
        self.read_so_far: list[int] = []

    def __len__(self) -> int:
        return COUNT

    def key(self, index: int) -> str:
        return f"texts.csv:{index}"

    def labels(self, index: int) -> tuple[str, ...]:
        return ("ab"[index % 2],)

    def clue(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Record:
        self.read_so_far.append(index)
        if index == UNREADABLE:
            raise DataError("gone")
        return Record(self.key(index), b"x" * random.Random(index).randint(1, 90), self.labels(index))


class Lengths:
    """Batches are as wide as their longest content."""

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        return {"x": torch.ones(len(content))}

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"x": torch.nn.utils.rnn.pad_sequence([example["x"] for example in examples], batch_first=True)}


def batches(options: BatchOptions = OPTIONS) -> Batches:
    dataset = Dataset(Texts(), tuple(range(COUNT)), LabelMap(("a", "b"), multi_label=False), Lengths())
    return Batches(dataset, options, BadRecords("train", 1))


def padding(options: BatchOptions) -> float:
    """The ratio of computed to actual content length."""
    padded = [batch.inputs["x"] for batch in batches(options).iterate(0)]
    return sum(x.numel() for x in padded) / float(sum(x.sum() for x in padded))


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, shuffle=False)])
def test_every_record_occurs_once_with_little_padding(options: BatchOptions) -> None:
    positions = [position for batch in batches(options).positions(0) for position in batch]
    assert sorted(positions) == list(range(COUNT))
    assert padding(options) < 1.15
    assert padding(replace(options, length=None)) > 1.4


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("first", [0, 1, 24, 25, 60, 100, 101])
def test_batches_are_identical_for_any_start_and_number_of_threads(first: int, workers: int) -> None:
    whole = list(batches().positions(2))
    assert len(whole) == 101
    assert list(batches(replace(OPTIONS, workers=workers)).positions(2, first)) == whole[first:]


def test_known_lengths_do_not_change_the_batches() -> None:
    fresh, used = batches(), batches()
    list(used.positions(0))
    assert list(used.positions(1)) == list(fresh.positions(1)) != list(fresh.positions(0))
    reader = used.dataset.reader
    assert isinstance(reader, Texts)
    assert sorted(reader.read_so_far) == list(range(COUNT))


def test_resuming_does_not_read_earlier_pools() -> None:
    late = batches()
    remaining = [position for batch in late.positions(0, 75) for position in batch]
    reader = late.dataset.reader
    assert isinstance(reader, Texts)
    assert sorted(reader.read_so_far) == sorted(remaining)


def test_short_and_long_batches_are_shuffled() -> None:
    widths = [batch.inputs["x"].shape[1] for batch in batches().iterate(0)]
    pool = widths[:25]
    assert pool != sorted(pool)
    assert max(pool[:8]) > 60


def test_batches_without_length_grouping_are_ungrouped() -> None:
    mixed, plain = batches().without_length_grouping(), batches(replace(OPTIONS, length=None))
    assert list(mixed.positions(0)) == list(plain.positions(0))


@given(st.integers(0, 900), st.integers(1, 9))
def test_pools_contain_consecutive_batches(count: int, size: int) -> None:
    bounds = batch_bounds(count, size)
    pools = split_into_pools(bounds)
    assert [batch for pool in pools for batch in pool] == bounds
    assert all(len(pool) <= 50 for pool in pools)
    assert len(pools) >= min(4, len(bounds))


def test_equal_lengths_keep_epoch_order() -> None:
    pool = np.array([5, 3, 9, 1, 7])
    groups = group_by_length(pool, np.array([2, 1, 2, 1, 2], np.int32), [2, 3], np.array([1, 0]))
    assert [group.tolist() for group in groups] == [[5, 9, 7], [3, 1]]
