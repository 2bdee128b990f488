"""Folds: every record is held out at most once, and every class remains in training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.solver.folds import FOLDS, SINGLE_FOLD_ABOVE, make_folds, strata_of


def classes_of(counts: dict[int, int]) -> NDArray[np.int64]:
    return np.concatenate([np.full(count, name, np.int64) for name, count in counts.items()])


def test_records_are_spread_evenly_over_the_folds() -> None:
    strata = classes_of({0: 20, 1: 13, 2: 7})
    folds = make_folds(strata, seed=0)
    assert sorted(folds.order.tolist()) == list(range(40))
    assert [len(rows) for rows in folds.held_out] == [8] * FOLDS
    for rows in folds.held_out:
        counts = np.bincount(strata[folds.order[rows]], minlength=3)
        assert counts[0] == 4
        assert counts[1] in {2, 3}
        assert counts[2] in {1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_every_class_remains_in_training(seed: int) -> None:
    strata = classes_of({0: 30, 1: 2, 2: 3, 3: 1, 4: 4})
    folds = make_folds(strata, seed)
    held_out = []
    for fold, rows in enumerate(folds.held_out):
        training = [row for part in folds.training(fold) for row in part]
        assert sorted([*training, *rows]) == list(range(40))
        assert set(strata[folds.order[training]]) == {0, 1, 2, 3, 4}
        held_out += folds.order[rows].tolist()
    # Each record of a small class is held out once, but not one that is alone.
    assert sorted(held_out) == sorted(set(range(40)) - set(np.flatnonzero(strata == 3)))


def test_a_single_record_per_class_is_never_held_out() -> None:
    folds = make_folds(np.arange(6), seed=0)
    assert folds.held_out == ()
    assert len(folds.order) == 6


def test_few_records_make_fewer_folds() -> None:
    folds = make_folds(np.zeros(3, np.int64), seed=0)
    assert [len(rows) for rows in folds.held_out] == [1, 1, 1]


def test_many_records_are_held_out_in_one_fold() -> None:
    folds = make_folds(np.arange(SINGLE_FOLD_ABOVE + 1) % 10, seed=0)
    assert len(folds.held_out) == 1
    assert len(folds.held_out[0]) == pytest.approx(SINGLE_FOLD_ABOVE / FOLDS, abs=10)
    assert sum(map(len, folds.training(0))) + len(folds.held_out[0]) == SINGLE_FOLD_ABOVE + 1


def test_the_seed_changes_the_folds_and_repeats_them() -> None:
    strata = np.zeros(50, np.int64)
    assert make_folds(strata, 1).order.tolist() == make_folds(strata, 1).order.tolist()
    assert make_folds(strata, 1).order.tolist() != make_folds(strata, 2).order.tolist()


def test_records_with_several_labels_are_stratified_by_the_rarest() -> None:
    targets = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 1]], np.float64)
    assert strata_of(targets, exclusive=False).tolist() == [1, 0, 2, 3, 2]
    assert strata_of(np.eye(3)[[2, 0]], exclusive=True).tolist() == [2, 0]
