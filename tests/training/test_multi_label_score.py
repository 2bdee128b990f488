"""Epochs of multi-label tasks are compared by micro F1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from finetune.evaluation.predict import Predictions
from finetune.training.losses import count_labels
from finetune.training.state import BestEpoch, EpochTotals, History
from tests.support.training_setup import TinyTraining, request

CPU = torch.device("cpu")


def row(loss: float, f1: float, accuracy: float = 0.0) -> dict[str, float]:
    return {"validation:loss": loss, "validation:accuracy": accuracy, "validation:micro_f1": f1}


def test_best_epoch_has_the_highest_f1_instead_of_accuracy() -> None:
    best, weights = BestEpoch(keep=False), TinyTraining(request()).state.weights
    for epoch, (f1, accuracy) in enumerate([(0.5, 0.2), (0.7, 0.1), (0.6, 0.3)]):
        best.update(row(1.0, f1, accuracy), epoch, weights, 0.0)
    assert (best.epoch, best.score, best.improved) == (1, 0.7, 1)


def test_patience_follows_the_loss_while_f1_is_zero() -> None:
    best, weights = BestEpoch(keep=False), TinyTraining(request()).state.weights
    for epoch, (loss, f1) in enumerate([(0.7, 0.0), (0.6, 0.0), (0.5, 0.0), (0.6, 0.0), (0.6, 0.2), (0.1, 0.2)]):
        best.update(row(loss, f1), epoch, weights, 0.0)
    assert best.improved == 4
    assert best.epoch == 5


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_non_finite_loss_is_the_worst_at_equal_score(broken: float) -> None:
    best, weights = BestEpoch(keep=False), TinyTraining(request()).state.weights
    for epoch, loss in enumerate([2.0, broken, broken]):
        best.update({"validation:loss": loss, "validation:accuracy": 0.5}, epoch, weights, 0.0)
    assert best.epoch == 0


def test_training_f1_is_computed_over_all_labels() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, 3.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert count_labels(logits, targets).tolist() == [2, 3, 3]
    totals = EpochTotals(CPU, multi_label=True)
    totals.labels += count_labels(logits, targets)
    other = EpochTotals(CPU, multi_label=True)
    other.load_state_dict(totals.state_dict())
    assert other.means()["micro_f1"] == pytest.approx(2 / 3)
    other.clear()
    assert other.means()["micro_f1"] == 0.0
    assert "micro_f1" not in EpochTotals(CPU).means()


def test_validation_metrics_of_single_and_multi_label_tasks() -> None:
    positions = np.arange(2)
    probabilities = np.array([[0.9, 0.2], [0.8, 0.9]], dtype=np.float32)
    multi_label = Predictions(positions, np.array([[1, 0], [1, 0]], dtype=np.float32), probabilities, 0.25)
    assert multi_label.validation_row() == {
        "validation:loss": 0.25, "validation:accuracy": 0.5, "validation:micro_f1": pytest.approx(0.8),
    }  # fmt: skip
    single_label = Predictions(positions, np.array([0, 0]), probabilities, 0.25)
    assert single_label.validation_row() == {"validation:loss": 0.25, "validation:accuracy": 0.5}


def test_history_of_multi_label_job_is_restored() -> None:
    history = History()
    rows = [{"train:loss": 1.0, "train:accuracy": 0.0, "train:micro_f1": 0.5} | row(1.0, 0.5)]
    history.load_state_dict({"rows": rows})
    assert history.rows == rows
