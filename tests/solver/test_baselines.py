"""Simple measures of the separation of classes, compared with their definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from finetune.solver.baselines import measure_baselines, nearest_mean_accuracy
from finetune.solver.head import Estimate


def leave_one_out(features: Tensor, classes: Tensor) -> float:
    scaled = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    correct = 0
    for record in range(len(scaled)):
        others = torch.arange(len(scaled)) != record
        distances = {
            int(name): float((scaled[others & (classes == name)].mean(dim=0) - scaled[record]).norm())
            for name in set(classes[others].tolist())
        }
        correct += min(distances, key=lambda name: distances[name]) == int(classes[record])
    return correct / len(scaled)


def test_nearest_mean_leaves_each_record_out() -> None:
    generator = torch.Generator().manual_seed(1)
    # Class 1 has no record, and class 3 a single one.
    classes = torch.tensor([0, 2, 0, 2, 0, 2, 0, 2, 0, 3])
    features = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    features[classes == 2] += 0.8
    expected = leave_one_out(features, classes)
    assert 0 < expected < 1
    assert nearest_mean_accuracy(features, classes) == expected


def estimate(loss: float, accuracy: float) -> Estimate:
    return Estimate(loss, accuracy, accuracy_standard_error=0.1, records=8, folds=5)


def test_separation_is_the_share_of_errors_saved() -> None:
    targets = torch.tensor([[1, 0]] * 6 + [[0, 1]] * 2)
    measured = measure_baselines(torch.eye(8), targets, estimate(0.1, 0.875), exclusive=True)
    assert measured.majority_accuracy == 0.75
    assert measured.separation == 0.5
    assert measure_baselines(torch.eye(8), targets, None, exclusive=True).separation is None


def test_separation_of_several_labels_is_the_share_of_the_entropy_saved() -> None:
    # The last label is the same for all records, and takes no part.
    targets = torch.tensor([[1, 0, 1]] * 4 + [[0, 1, 1]] * 4)
    measured = measure_baselines(torch.eye(8), targets, estimate(math.log(2) / 4, 0.5), exclusive=False)
    assert (measured.majority_accuracy, measured.nearest_mean_accuracy) == (None, None)
    assert measured.separation == pytest.approx(0.75)
