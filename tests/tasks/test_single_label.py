"""Single-label classification: targets are class indices, and one class is predicted per record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune.tasks.single_label import SingleLabelClassification
from finetune.tasks.thresholds import ThresholdTarget

TASK = SingleLabelClassification(("a", "b", "c"))
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
TARGETS = torch.tensor([0, 1])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]], dtype=np.float32)
EVALUATED = np.array([0, 2, 0])


def test_loss_is_the_sum_of_weighted_and_smoothed_cross_entropies() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    expected = functional.cross_entropy(LOGITS, TARGETS, weight=weights, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(TASK.loss(LOGITS, TARGETS, 0.1, weights), expected, rtol=0, atol=0)


def test_only_correct_records_are_counted() -> None:
    counts = TASK.count(LOGITS, TARGETS)
    assert {name: int(count) for name, count in counts.items()} == {"correct": 1}
    assert TASK.training_metrics(counts, 2) == {"accuracy": 0.5}
    assert TASK.training_metrics({"correct": torch.tensor(0)}, 0) == {"accuracy": 0.0}


def test_class_counts_include_classes_without_records() -> None:
    assert TASK.class_counts(torch.tensor([0, 0, 1])).tolist() == [2.0, 1.0, 0.0]


def test_evaluation_loss_and_probabilities() -> None:
    assert TASK.mean_loss(LOGITS, TARGETS) == pytest.approx(float(functional.cross_entropy(LOGITS, TARGETS)))
    torch.testing.assert_close(TASK.probabilities(LOGITS).sum(dim=1), torch.ones(2))


def test_validation_accuracy() -> None:
    assert TASK.validation_metrics(EVALUATED, PROBABILITIES) == {"accuracy": pytest.approx(1 / 3)}
    assert TASK.validation_metrics(EVALUATED[:0], PROBABILITIES[:0]) == {"accuracy": 0.0}


def test_mistakes_have_the_probability_of_the_predicted_class() -> None:
    confidences, classes = TASK.mistakes(EVALUATED, PROBABILITIES)
    assert confidences.tolist() == pytest.approx([0.0, 0.7, 0.6])
    assert classes.tolist() == [0, 1, 2]


def test_one_class_is_predicted_per_record() -> None:
    assert TASK.true_classes(EVALUATED[1]) == ("c",)
    assert TASK.predicted_classes(PROBABILITIES[2], np.full(3, 0.5)) == ("c",)
    assert TASK.predicted_classes(PROBABILITIES[2], np.array([0.1, 0.5, 0.5])) == ("a",)


def test_only_two_classes_have_thresholds() -> None:
    two = SingleLabelClassification(("no", "yes"))
    assert (two.has_thresholds, TASK.has_thresholds) == (True, False)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.3], dtype=np.float32)
    truth, probabilities = np.array([1, 1, 0, 1, 0]), np.stack([1 - scores, scores], axis=1)
    chosen = two.choose_thresholds(truth, probabilities, ThresholdTarget(precision=0.9))
    assert chosen.thresholds == pytest.approx((0.25, 0.75))
    assert two.metrics_at_thresholds(truth, probabilities, chosen) == {
        "yes": {"precision": 1.0, "recall": pytest.approx(2 / 3)}
    }


def test_constant_prediction_has_the_share_of_the_most_frequent_class() -> None:
    assert TASK.constant_prediction_score((6, 3, 3), None) == 0.5


def test_metrics_contain_top_k_accuracy() -> None:
    assert TASK.metrics(EVALUATED, PROBABILITIES, 2)["top_2_accuracy"] == pytest.approx(2 / 3)


def test_artifact_describes_exclusive_classes() -> None:
    assert TASK.artifact_fields() == {"multi_label": False, "labels": ["a", "b", "c"]}
    assert TASK.description("text-classification") == "text-classification"
