"""Multi-label classification: targets are 0 and 1 by class, and every class is predicted independently."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.thresholds import ThresholdTarget

TASK = MultiLabelClassification(("a", "b", "c"))
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.9, 0.3]], dtype=np.float32)
EVALUATED = np.array([[1, 0, 0], [1, 0, 1]], dtype=np.float32)


def test_loss_averages_over_the_classes() -> None:
    by_hand = sum(
        -math.log(1 / (1 + math.exp(-z)) if t else 1 - 1 / (1 + math.exp(-z)))
        for z, t in zip(LOGITS.flatten().tolist(), TARGETS.flatten().tolist(), strict=True)
    )
    torch.testing.assert_close(TASK.loss(LOGITS, TARGETS, 0.0, None), torch.tensor(by_hand / 3))


def test_loss_is_weighted_and_smoothed() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    smooth = TARGETS * 0.9 + 0.05
    losses = functional.binary_cross_entropy_with_logits(LOGITS, smooth, reduction="none") * weights
    torch.testing.assert_close(TASK.loss(LOGITS, TARGETS, 0.1, weights), losses.mean(dim=1).sum())


def test_records_and_labels_are_counted() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, 3.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    counts = TASK.count(logits, targets)
    assert (int(counts["correct"]), counts["labels"].tolist()) == (1, [2, 3, 3])
    assert TASK.training_metrics(counts, 2) == {"accuracy": 0.5, "micro_f1": pytest.approx(2 / 3)}


def test_class_counts_are_sums_over_the_records() -> None:
    assert TASK.class_counts(TARGETS).tolist() == [1.0, 0.0, 1.0]


def test_evaluation_loss_and_probabilities() -> None:
    expected = functional.binary_cross_entropy_with_logits(LOGITS, TARGETS)
    assert TASK.mean_loss(LOGITS, TARGETS) == pytest.approx(float(expected))
    torch.testing.assert_close(TASK.probabilities(LOGITS), LOGITS.sigmoid())


def test_validation_accuracy_and_f1() -> None:
    metrics = TASK.validation_metrics(EVALUATED, PROBABILITIES)
    assert metrics == {"accuracy": 0.5, "micro_f1": pytest.approx(4 / 6)}


def test_worst_mistake_of_each_record() -> None:
    confidences, classes = TASK.mistakes(EVALUATED, PROBABILITIES)
    assert confidences.tolist() == pytest.approx([0.0, 0.9])
    assert classes[1] == 1
    assert TASK.mistakes(EVALUATED, 1 - EVALUATED * np.float32(0.75))[1].tolist() == [1, 1]


def test_any_number_of_classes_is_predicted() -> None:
    assert TASK.true_classes(EVALUATED[1]) == ("a", "c")
    assert TASK.true_classes(np.zeros(3, dtype=np.float32)) == ()
    assert TASK.predicted_classes(PROBABILITIES[1], np.full(3, 0.5)) == ("a", "b")
    assert TASK.predicted_classes(PROBABILITIES[1], np.array([0.9, 0.9, 0.2])) == ("c",)


def test_every_class_has_a_threshold() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.3], dtype=np.float32)
    positive = np.array([True, True, False, True, False])
    task = MultiLabelClassification(("a", "b"))
    truth, probabilities = np.stack([positive, ~positive], axis=1).astype(np.float32), np.stack([scores] * 2, axis=1)
    chosen = task.choose_thresholds(truth, probabilities, ThresholdTarget(precision=0.9))
    assert chosen.thresholds == pytest.approx((0.75, 0.5))
    assert chosen.missed == ("b",)
    assert task.metrics_at_thresholds(truth, probabilities, chosen) == {
        "a": {"precision": 1.0, "recall": pytest.approx(2 / 3)}, "b": {"precision": 0.25, "recall": 0.5},
    }  # fmt: skip


def test_constant_prediction_has_the_highest_f1() -> None:
    assert TASK.constant_prediction_score((4, 1, 0), 4) == pytest.approx(8 / 9)
    assert TASK.constant_prediction_score((4, 1, 0), None) == pytest.approx(8 / 9)


def test_artifact_describes_independent_classes() -> None:
    assert TASK.artifact_fields() == {"multi_label": True, "labels": ["a", "b", "c"]}
    assert TASK.description("image-classification") == "image-classification, several labels per record"
