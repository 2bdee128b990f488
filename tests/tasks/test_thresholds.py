"""Thresholds meet the promised precision without losing more recall than necessary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.tasks.thresholds import ThresholdTarget, find_threshold, precision_and_recall

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.3])
POSITIVE = np.array([True, True, False, True, False])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ThresholdTarget(precision=0.9), 0.75),
        (ThresholdTarget(precision=0.75), 0.45),
        (ThresholdTarget(recall=0.6), 0.75),
        (ThresholdTarget(recall=0.9), 0.45),
    ],
)
def test_thresholds_match_values_computed_by_hand(target: ThresholdTarget, expected: float) -> None:
    assert find_threshold(POSITIVE, SCORES, target) == pytest.approx(expected)


def test_unreachable_target_has_no_threshold() -> None:
    assert find_threshold(np.array([False, True]), np.array([0.9, 0.1]), ThresholdTarget(precision=0.9)) is None
    assert find_threshold(np.array([False, False]), np.array([0.9, 0.1]), ThresholdTarget(recall=0.5)) is None


@pytest.mark.parametrize("target", [ThresholdTarget(precision=0.5), ThresholdTarget(recall=0.5)])
def test_score_of_zero_is_never_above_the_threshold(target: ThresholdTarget) -> None:
    assert find_threshold(np.array([False, True]), np.array([0.05, 0.0]), target) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_thresholds_reach_their_target(records: list[tuple[bool, int]], value: float) -> None:
    positive, scores = np.array([label for label, _ in records]), np.array([score / 20 for _, score in records])
    for target in (ThresholdTarget(precision=value), ThresholdTarget(recall=value)):
        cut = find_threshold(positive, scores, target)
        if cut is None:
            continue
        predicted = scores > cut
        if predicted.any() and target.precision is not None:
            assert positive[predicted].mean() >= value
        if target.recall is not None:
            assert predicted[positive].mean() >= value


def test_precision_and_recall_at_a_threshold() -> None:
    assert precision_and_recall(POSITIVE, SCORES, 0.75) == {"precision": 1.0, "recall": pytest.approx(2 / 3)}
    assert precision_and_recall(POSITIVE, SCORES, 0.95) == {"precision": None, "recall": 0.0}
    assert precision_and_recall(~POSITIVE & POSITIVE, SCORES, 0.5) == {"precision": 0.0, "recall": None}
