"""Epochs of multi-label tasks are compared by micro F1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from finetune.evaluation.predict import Predictions
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification
from finetune.training.saved_state.state import BestEpoch, EpochTotals, History
from tests.support.training_setup import TinyTraining, request

CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
SINGLE_LABEL, MULTI_LABEL = SingleLabelClassification(NAMES), MultiLabelClassification(NAMES)


def row(loss: float, f1: float, accuracy: float = 0.0) -> dict[str, float]:
    return {"validation:loss": loss, "validation:accuracy": accuracy, "validation:micro_f1": f1}


def test_best_epoch_has_the_highest_f1_instead_of_accuracy() -> None:
    best, weights = BestEpoch(False, "micro_f1"), TinyTraining(request()).state.weights
    for epoch, (f1, accuracy) in enumerate([(0.5, 0.2), (0.7, 0.1), (0.6, 0.3)]):
        best.update(row(1.0, f1, accuracy), epoch, weights, 0.0)
    assert (best.epoch, best.score, best.improved) == (1, 0.7, 1)


def test_patience_follows_the_loss_while_f1_is_zero() -> None:
    best, weights = BestEpoch(False, "micro_f1"), TinyTraining(request()).state.weights
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


def test_counts_of_an_epoch_are_restored() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, 3.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    totals = EpochTotals(CPU, MULTI_LABEL)
    totals.add(torch.tensor(3.0), logits, targets)
    assert list(totals.state_dict()) == ["loss", "correct", "labels", "records"]
    other = EpochTotals(CPU, MULTI_LABEL)
    other.load_state_dict(totals.state_dict())
    assert other.means() == {"loss": 1.5, "accuracy": 0.5, "micro_f1": pytest.approx(2 / 3)}
    other.clear()
    assert other.means() == {"loss": 0.0, "accuracy": 0.0, "micro_f1": 0.0}


def test_single_label_checkpoints_have_the_same_keys() -> None:
    totals = EpochTotals(CPU, SINGLE_LABEL)
    totals.add(torch.tensor(3.0), torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([2]))
    assert list(totals.state_dict()) == ["loss", "correct", "labels", "records"]
    assert totals.state_dict()["labels"].tolist() == [0, 0, 0]
    assert totals.means() == {"loss": 3.0, "accuracy": 1.0}


def test_validation_metrics_of_single_and_multi_label_tasks() -> None:
    positions = np.arange(2)
    probabilities = np.array([[0.9, 0.2], [0.8, 0.9]], dtype=np.float32)
    multi_label = Predictions(positions, np.array([[1, 0], [1, 0]], dtype=np.float32), probabilities, 0.25)
    assert multi_label.validation_row(MULTI_LABEL) == {
        "validation:loss": 0.25, "validation:accuracy": 0.5, "validation:micro_f1": pytest.approx(0.8),
    }  # fmt: skip
    single_label = Predictions(positions, np.array([0, 0]), probabilities, 0.25)
    assert single_label.validation_row(SINGLE_LABEL) == {"validation:loss": 0.25, "validation:accuracy": 0.5}


def test_history_of_multi_label_job_is_restored() -> None:
    history = History()
    rows = [{"train:loss": 1.0, "train:accuracy": 0.0, "train:micro_f1": 0.5} | row(1.0, 0.5)]
    history.load_state_dict({"rows": rows})
    assert history.rows == rows
