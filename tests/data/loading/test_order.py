"""Shuffling: fixed reference values, and every record exactly once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.loading.order import batch_bounds, epoch_order, record_seed

_SEEDS = st.integers(min_value=0, max_value=2**64)
_EPOCHS = st.integers(min_value=0, max_value=10_000)


def test_orders_and_seeds_equal_reference_values() -> None:
    assert epoch_order(10, seed=0, epoch=0).tolist() == [6, 3, 8, 1, 4, 5, 9, 2, 7, 0]
    assert epoch_order(10, seed=7, epoch=3).tolist() == [2, 1, 4, 8, 9, 3, 5, 7, 6, 0]
    assert record_seed(7, 3, "cats/a.jpg") == 991756137226523564


@given(count=st.integers(min_value=0, max_value=300), seed=_SEEDS, epoch=_EPOCHS)
def test_epoch_order_is_a_deterministic_permutation(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed, epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, epoch_order(count, seed, epoch))


def test_epoch_order_depends_on_seed_and_epoch() -> None:
    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**32, 2**32 + 1) for epoch in (0, 1, 2)]
    assert len({tuple(epoch_order(50, seed, epoch).tolist()) for seed, epoch in pairs}) == len(pairs)


def test_epoch_order_is_uniform() -> None:
    positions = np.array([epoch_order(8, 5, epoch) for epoch in range(400)])
    counts = np.array([np.bincount(positions[:, column], minlength=8) for column in range(8)])
    assert counts.min() > 20
    assert counts.max() < 90


@given(seed=_SEEDS, epoch=_EPOCHS, key=st.text())
def test_record_seed_is_a_64_bit_number_of_all_arguments(seed: int, epoch: int, key: str) -> None:
    value = record_seed(seed, epoch, key)
    assert 0 <= value < 2**64
    assert len({value, record_seed(seed + 1, epoch, key), record_seed(seed, epoch + 1, key)}) == 3
    assert value != record_seed(seed, epoch, key + "x")


@given(count=st.integers(min_value=0, max_value=2_000), batch_size=st.integers(min_value=1, max_value=70))
def test_batch_bounds_cover_every_record_without_small_batches(count: int, batch_size: int) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [position for start, stop in bounds for position in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-2])
    assert all(size <= max(batch_size, 3) for size in sizes)
    if count > batch_size > 1:
        assert min(sizes) >= max(2, batch_size / 2)
    if batch_size != 2:
        assert len(bounds) == -(-count // batch_size)


def test_last_two_batches_share_the_remainder() -> None:
    assert batch_bounds(9, 4) == [(0, 4), (4, 7), (7, 9)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 7), (7, 10)]
    assert batch_bounds(8, 4) == [(0, 4), (4, 8)]
    assert batch_bounds(5, 2) == [(0, 2), (2, 5)]
    assert batch_bounds(1, 4) == [(0, 1)]
    assert batch_bounds(3, 1) == [(0, 1), (1, 2), (2, 3)]
    assert batch_bounds(0, 4) == []
