"""Symptoms and healthy states are recognized from their numbers."""

from __future__ import annotations

import pytest

from finetune.monitoring.rules.curves import TrainingCurves
from finetune.monitoring.rules.symptoms import check_training

BASELINE = 0.1


def rule_names(loss: list[float], train: list[float], validation: list[float]) -> list[str]:
    rows = [
        {"train:loss": a, "train:accuracy": b, "validation:loss": 1.0, "validation:accuracy": c}
        for a, b, c in zip(loss, train, validation, strict=True)
    ]
    return [finding.rule for finding in check_training(TrainingCurves(rows, 10, 500), BASELINE)]


RISING = [0.3, 0.5, 0.7, 0.8, 0.85, 0.9]


def test_healthy_training_has_no_symptoms() -> None:
    assert rule_names([2, 1.4, 0.9, 0.6, 0.5, 0.4], RISING, RISING) == []
    assert rule_names([2, 0.4, 0.1, 0.12, 0.08, 0.1], RISING, RISING) == []


@pytest.mark.parametrize(
    ("loss", "train", "validation", "expected"),
    [
        ([2, 1, 2.2, 0.9, 2.1, 1.2], RISING, RISING, "Oscillating"),
        ([2.3, 2.29, 2.28, 2.28, 2.27, 2.27], [0.12] * 6, [0.11] * 6, "Underfit"),
        (
            [2, 1.8, 1.6, 1.5, 1.4, 1.3],
            [0.3, 0.4, 0.5, 0.5, 0.5, 0.5],
            [0.5, 0.6, 0.7, 0.8, 0.8, 0.8],
            "ValidationBetter",
        ),
    ],
)
def test_symptom_is_reported(loss: list[float], train: list[float], validation: list[float], expected: str) -> None:
    assert rule_names(loss, train, validation) == [expected]


def test_short_training_has_no_symptoms() -> None:
    for epochs in range(4):
        assert rule_names([2, 1, 2.2][:epochs], [0.1] * min(epochs, 3), [0.1] * min(epochs, 3)) == []


def test_exploded_loss_is_not_underfitting() -> None:
    assert rule_names([390, 2e6, 7e9, 5e11, 3e14, 4e14], [0.3] * 6, [0.1] * 6) == []


def test_nan_loss_is_reported_after_any_epoch() -> None:
    assert rule_names([2.0, float("nan")], [0.5, 0.1], [0.5, 0.1]) == ["Diverged"]
