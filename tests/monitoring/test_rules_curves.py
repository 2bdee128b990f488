"""Rules about losses and classes: a curve that triggers each one, and a healthy one that does not."""

from __future__ import annotations

import pytest

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.curves import TrainingCurves, check_class_balance, check_curves, check_rare_classes
from finetune.monitoring.rules.setup import Setup


def curves(train: list[float], validation: list[float], accuracy: list[float]) -> TrainingCurves:
    rows = [
        {"train:loss": a, "train:accuracy": 0.5, "validation:loss": b, "validation:accuracy": c}
        for a, b, c in zip(train, validation, accuracy, strict=True)
    ]
    return TrainingCurves(rows, steps_per_epoch=20, validation_records=500)


def rule_names(training_curves: TrainingCurves) -> list[str]:
    return [finding.rule for finding in check_curves(training_curves, DEFAULTS)]


HEALTHY = curves([2.3, 1.2, 0.7, 0.4, 0.2, 0.1], [2.0, 1.3, 0.9, 0.7, 0.65, 0.66], [0.3, 0.5, 0.7, 0.8, 0.82, 0.82])


def test_healthy_curve_has_no_findings_at_any_epoch() -> None:
    for epochs in range(len(HEALTHY.rows) + 1):
        assert rule_names(TrainingCurves(HEALTHY.rows[:epochs], 20, 500)) == []


def test_flat_loss_is_reported() -> None:
    flat = curves([2.30, 2.31, 2.30, 2.30, 2.31, 2.32], [2.3] * 6, [0.1] * 6)
    (finding,) = check_curves(flat, DEFAULTS)
    assert finding.rule == "LossNotDecreasing"
    assert "raise learning_rate" in finding.advice


def test_growing_loss_advises_lower_learning_rate() -> None:
    (finding,) = check_curves(curves([2, 4, 8, 9, 10, 12], [2.3] * 6, [0.1] * 6), DEFAULTS)
    assert "lower learning_rate" in finding.advice


def test_converged_loss_is_not_reported() -> None:
    assert "LossNotDecreasing" not in rule_names(curves([2, 0.4, 0.1, 0.1, 0.1, 0.1, 0.11], [1.0] * 7, [0.8] * 7))


def test_overfitting_is_reported() -> None:
    worse = curves([2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.4, 1.9], [0.4, 0.7, 0.8, 0.72, 0.65])
    (finding,) = check_curves(worse, DEFAULTS)
    assert finding.rule == "Overfit"
    assert "early_stopping_patience" in finding.advice


def test_generalization_gap_alone_is_not_overfitting() -> None:
    gap = curves([2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.1, 1.1], [0.4, 0.7, 0.8, 0.8, 0.8])
    assert rule_names(gap) == []


def test_overtraining_is_reported() -> None:
    (finding,) = check_curves(curves([2, 1, *[0.5] * 12], [2, 1, *[0.9] * 12], [0.3, 0.7, *[0.8] * 12]), DEFAULTS)
    assert finding.rule == "Overtraining"
    assert finding.advice == "set epochs=5."


@pytest.mark.parametrize(
    ("counts", "weighted", "reported"),
    [
        ({"a": 1000, "b": 50}, False, True),
        ({"a": 1000, "b": 50}, True, False),
        ({"a": 1000, "b": 200}, False, False),
        ({"a": 32, "b": 1}, False, True),
        ({"a": 5, "b": 0}, False, True),
        ({"a": 10, "b": 1}, False, False),
    ],
)
def test_class_imbalance_is_reported(counts: dict[str, int], weighted: bool, reported: bool) -> None:
    assert bool(check_class_balance(counts, DEFAULTS, Setup(has_class_weights=weighted))) == reported


def test_misclassified_rare_class_is_reported() -> None:
    (finding,) = check_rare_classes({"a": 0.9, "b": 0.1}, {"a": 1000, "b": 200}, DEFAULTS, Setup())
    assert "90% of 'b'" in finding.observation
    assert finding.advice == "set class_weights=balanced, or add records of the rare classes."
    assert check_rare_classes({"a": 0.9, "b": 0.6}, {"a": 1000, "b": 200}, DEFAULTS, Setup()) == []


def test_applied_class_weights_are_not_advised() -> None:
    (finding,) = check_rare_classes(
        {"a": 0.9, "b": 0.1}, {"a": 1000, "b": 200}, DEFAULTS, Setup(has_class_weights=True)
    )
    assert finding.advice == "add records of the rare classes."


def test_disabled_rules_report_nothing() -> None:
    assert check_curves(curves([2.3] * 9, [2.3] * 9, [0.1] * 9), {}) == []
    assert check_class_balance({"a": 1000, "b": 1}, {}, Setup()) == []
