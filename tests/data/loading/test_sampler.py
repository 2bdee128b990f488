"""Classes are drawn equally often, repeated records are augmented differently, and resuming changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from finetune.data.bad_records import BadRecords
from finetune.data.loading.batches import Batches
from finetune.data.loading.sampler import balanced_sampler
from tests.data.loading.test_length_grouping import OPTIONS, batches
from tests.support.tiny import TinyReader, tiny_batches

LABELS = [("rare",), *[("common",)] * 90, ("rare",), (), ("common", "rare")]


def test_classes_are_drawn_equally_often() -> None:
    sampler = balanced_sampler(LABELS)
    draws = np.concatenate([sampler.order(7, epoch) for epoch in range(60)]) % len(LABELS)
    counts = np.bincount(draws, minlength=len(LABELS))
    expected = np.full(len(LABELS), 1 / 3 / 91)  # records without labels are a class of their own
    expected[[0, 91, 92, 93]] = [1 / 9, 1 / 9, 1 / 3, 1 / 9 + 1 / 3 / 91]
    deviations = (counts - 60 * 94 * expected) / np.sqrt(60 * 94 * expected)
    assert np.abs(deviations).max() < 4
    assert 0.8 < deviations.std() < 1.2


def test_draws_equal_reference_values() -> None:
    assert balanced_sampler(LABELS[-6:]).order(7, 3).tolist() == [0, 5, 3, 9, 11, 6]
    assert balanced_sampler(LABELS[-6:]).order(7, 4).tolist() != [0, 5, 3, 9, 11, 6]


def test_repetitions_of_a_record_are_numbered_in_order() -> None:
    draws = balanced_sampler(LABELS).order(0, 0)
    for record in range(len(LABELS)):
        repetitions = draws[draws % len(LABELS) == record] // len(LABELS)
        assert repetitions.tolist() == list(range(len(repetitions)))


def tensors(batches: Batches, epoch: int = 0, first: int = 0) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    return [(batch.positions, batch.inputs["pixels"]) for batch in batches.iterate(epoch, first)]


def test_repeated_images_are_augmented_differently() -> None:
    reader = TinyReader(4)  # two images of one class, one of each other class
    (positions, pixels), *_ = tensors(tiny_batches(reader, training=True, batch_size=4, balanced=True), epoch=1)
    repeated = [row for row, position in enumerate(positions) if positions.count(position) > 1]
    assert len(repeated) > 1
    assert len({pixels[row].numpy().tobytes() for row in repeated}) == len(repeated)


def test_any_start_and_number_of_threads_give_the_same_batches() -> None:
    whole = tensors(tiny_batches(TinyReader(45), training=True, balanced=True))
    resumed = tensors(tiny_batches(TinyReader(45), training=True, balanced=True, workers=2), first=3)
    assert [positions for positions, _ in resumed] == [positions for positions, _ in whole[3:]]
    assert all(torch.equal(pixels, expected) for (_, pixels), (_, expected) in zip(resumed, whole[3:], strict=True))


def test_batches_are_grouped_by_length() -> None:
    plain = batches()
    labels = [(str(index % 3),) for index in plain.dataset.indices]
    options = replace(OPTIONS, sampler=balanced_sampler(labels))
    grouped = Batches(plain.dataset, options, BadRecords("train", 0))
    drawn = [list(grouped.positions(0)), list(grouped.positions(0, 2))]
    assert drawn[0][2:] == drawn[1]
    ungrouped = Batches(plain.dataset, replace(options, length=None), BadRecords("train", 0))
    assert sorted(chain(*drawn[0])) == sorted(chain(*ungrouped.positions(0)))
    assert drawn[0] != list(ungrouped.positions(0))
