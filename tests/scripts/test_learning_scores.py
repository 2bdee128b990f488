"""Scores of the learning benchmark are those of scikit-learn; ranks share places."""

from __future__ import annotations

import pytest
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.learning.scores import ranks, score

TRUTH = ["a", "a", "b", "b", "c", "c"]
PREDICTED = ["a", "b", "b", "b", "a", "c"]


def test_scores_are_those_of_scikit_learn() -> None:
    assert score(TRUTH, PREDICTED, macro_f1=False) == accuracy_score(TRUTH, PREDICTED)
    assert score(TRUTH, PREDICTED, macro_f1=True) == pytest.approx(f1_score(TRUTH, PREDICTED, average="macro"))
    assert score(TRUTH, ["a"] * 6, macro_f1=True) == pytest.approx(
        f1_score(TRUTH, ["a"] * 6, average="macro", zero_division=0)
    )


def test_missing_predictions_are_an_error() -> None:
    with pytest.raises(ValueError, match="5 predictions for 6 records"):
        score(TRUTH, PREDICTED[:5], macro_f1=False)


def test_equal_scores_share_a_rank() -> None:
    assert ranks({"a": 0.9, "b": 0.8, "c": 0.8, "d": 0.1}) == {"a": 1, "b": 2.5, "c": 2.5, "d": 4}
