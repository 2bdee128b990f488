"""Metrics, compared with values computed by hand and with scikit-learn where it defines them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from finetune.errors import DataError, UserError
from finetune.tasks.metrics import multi_label_metrics, single_label_metrics

LABELS = ("a", "b", "c")
TARGETS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1],  # a, correct
        [0.5, 0.4, 0.1],  # a, correct
        [0.2, 0.5, 0.3],  # a, predicted as b; a ranks third
        [0.1, 0.8, 0.1],  # b, correct
        [0.6, 0.3, 0.1],  # b, predicted as a; b ranks second
        [0.1, 0.3, 0.6],  # c, correct
    ],
    dtype=np.float32,
)


def single(targets: NDArray[Any], probabilities: NDArray[Any], top_k: int | None = None) -> dict[str, Any]:
    result = single_label_metrics(targets, probabilities, LABELS, top_k)
    return dict(json.loads(json.dumps(result, allow_nan=False)))


def close(expected: object) -> object:
    return pytest.approx(expected, rel=1e-6)


def test_single_label_metrics_match_values_computed_by_hand() -> None:
    result = single(TARGETS, PROBABILITIES, top_k=2)
    assert result["records"] == 6
    assert result["accuracy"] == close(4 / 6)
    assert result["majority_baseline_accuracy"] == close(3 / 6)
    assert result["top_2_accuracy"] == close(5 / 6)
    assert result["log_loss"] == close(-sum(map(math.log, (0.7, 0.5, 0.2, 0.8, 0.3, 0.6))) / 6)
    assert result["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert result["labels"] == list(LABELS)
    # Of a's 3 x 3 pairs with other classes, 7 are in order: 0.5 is below 0.6, and so is 0.2. Of b's 2 x 4, 0.3 ranks
    # above 0.2 only, and ties with 0.3.
    auc = (7 / 9, (4 + 1 + 0.5) / 8, 1.0)
    assert result["per_class"] == [
        {
            "label": "a",
            "support": 3,
            "precision": close(2 / 3),
            "recall": close(2 / 3),
            "f1": close(2 / 3),
            "auc": close(auc[0]),
        },
        {"label": "b", "support": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5, "auc": close(auc[1])},
        {"label": "c", "support": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0, "auc": close(auc[2])},
    ]
    assert result["auc"] == close(sum(auc) / 3)
    assert result["macro"]["f1"] == close((2 / 3 + 0.5 + 1) / 3)
    assert result["weighted"]["recall"] == close((3 * 2 / 3 + 2 * 0.5 + 1) / 6)


def test_class_without_records_is_excluded_from_averages() -> None:
    result = single(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.1, 0.9, 0], [0.2, 0.8, 0]]))
    assert result["per_class"][2] == {
        "label": "c", "support": 0, "precision": None, "recall": None, "f1": None, "auc": None,
    }  # fmt: skip
    assert result["macro"] == {"precision": close((1 + 2 / 3) / 2), "recall": 0.75, "f1": close((2 / 3 + 4 / 5) / 2)}
    assert result["auc"] == 1.0


def test_predicted_class_without_records_has_precision_zero() -> None:
    result = single(np.array([0, 1]), np.array([[0.1, 0.1, 0.8], [0.1, 0.9, 0.0]]))
    assert result["per_class"][2]["precision"] == 0.0
    assert result["per_class"][2]["recall"] is None
    assert result["per_class"][0]["precision"] == 0.0
    assert result["confusion_matrix"] == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_auc_is_undefined_with_a_single_class() -> None:
    result = single(np.array([1, 1]), np.array([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]))
    assert result["auc"] is None
    assert result["accuracy"] == 0.5
    assert result["majority_baseline_accuracy"] == 1.0


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert single(np.array([0]), np.array([[0.0, 1.0, 0.0]]))["log_loss"] == close(-math.log(2**-52))


@pytest.mark.parametrize("k", [3, 10])
def test_top_k_accuracy_over_all_classes_is_one(k: int) -> None:
    assert single(TARGETS, PROBABILITIES, top_k=k)[f"top_{k}_accuracy"] == 1.0


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 40))
def test_metrics_match_scikit_learn(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(3), generator.integers(0, 3, count)])
    scores = generator.dirichlet(np.ones(3), len(targets))
    result = single(targets, scores)
    predicted = scores.argmax(axis=1)
    assert result["auc"] == close(sklearn_metrics.roc_auc_score(targets, scores, multi_class="ovr"))
    assert result["log_loss"] == close(sklearn_metrics.log_loss(targets, scores))
    for average in ("macro", "weighted"):
        expected = sklearn_metrics.precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)
        assert list(result[average].values()) == close(list(expected[:3]))


MULTI_LABEL_TARGETS = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float32)
MULTI_LABEL_PROBABILITIES = np.array(
    [[0.9, 0.2, 0.1], [0.8, 0.7, 0.6], [0.3, 0.6, 0.1], [0.6, 0.4, 0.2]], dtype=np.float32
)


def test_multi_label_metrics_match_values_computed_by_hand() -> None:
    result = multi_label_metrics(MULTI_LABEL_TARGETS, MULTI_LABEL_PROBABILITIES, LABELS)
    result = json.loads(json.dumps(result, allow_nan=False))
    assert result["records"] == 4
    assert result["accuracy"] == 0.25
    assert result["majority_baseline_accuracy"] == 0.5
    assert result["hamming_loss"] == close(4 / 12)
    true_probabilities = (0.9, 0.8, 0.9, 0.8, 0.7, 0.4, 0.3, 0.6, 0.9, 0.4, 0.4, 0.8)
    assert result["log_loss"] == close(-sum(map(math.log, true_probabilities)) / 12)
    assert result["micro"] == {"precision": close(4 / 6), "recall": close(4 / 6), "f1": close(4 / 6)}
    rows: Any = result["per_class"]
    # a: 0.9 and 0.8 rank above the negative's 0.6, then 0.3.
    assert rows[0] == {
        "label": "a", "support": 3, "precision": close(2 / 3), "recall": close(2 / 3), "f1": close(2 / 3),
        "auc": close(2 / 3), "average_precision": close((1 + 1 + 3 / 4) / 3),
    }  # fmt: skip
    assert rows[1] == {
        "label": "b", "support": 3, "precision": 1.0, "recall": close(2 / 3), "f1": close(0.8),
        "auc": 1.0, "average_precision": 1.0,
    }  # fmt: skip
    assert rows[2] == {
        "label": "c", "support": 0, "precision": 0.0, "recall": None, "f1": None,
        "auc": None, "average_precision": None,
    }  # fmt: skip
    assert result["macro"]["f1"] == close((2 / 3 + 0.8) / 2)
    assert result["auc"] == close((2 / 3 + 1) / 2)
    assert result["confusion_matrices"] == [[[0, 1], [1, 2]], [[1, 0], [1, 2]], [[3, 1], [0, 0]]]


def test_multi_label_metrics_with_one_class() -> None:
    result = multi_label_metrics(np.array([[1], [0]]), np.array([[0.7], [0.6]]), ("a",))
    assert result["accuracy"] == 0.5
    assert result["auc"] == 1.0


def test_no_records_raise_an_error() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        single_label_metrics(np.empty(0, np.int64), np.empty((0, 0)), LABELS)


def test_non_finite_predictions_raise_a_user_error() -> None:
    scores = PROBABILITIES.copy()
    scores[2] = np.nan
    with pytest.raises(UserError, match=r"1 of 6 records are not finite .*learning_rate"):
        single_label_metrics(TARGETS, scores, LABELS)


@pytest.mark.parametrize("targets", [TARGETS[:5], MULTI_LABEL_TARGETS])
def test_mismatched_shapes_are_refused(targets: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="do not match 3 labels"):
        single_label_metrics(targets, PROBABILITIES, LABELS)
