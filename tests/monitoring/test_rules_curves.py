"""Rules about losses and classes: a curve that triggers each one, and a healthy one that does not."""

from __future__ import annotations

import pytest

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.curves import TrainingCurves, judge_balance, judge_classes, judge_curves
from finetune.monitoring.rules.setup import Setup


def course(train: list[float], validation: list[float], accuracy: list[float]) -> TrainingCurves:
    rows = [
        {"train:loss": a, "train:accuracy": 0.5, "validation:loss": b, "validation:accuracy": c}
        for a, b, c in zip(train, validation, accuracy, strict=True)
    ]
    return TrainingCurves(rows, steps_per_epoch=20, validated=500)


def names(found: TrainingCurves) -> list[str]:
    return [one.rule for one in judge_curves(found, DEFAULTS)]


HEALTHY = course([2.3, 1.2, 0.7, 0.4, 0.2, 0.1], [2.0, 1.3, 0.9, 0.7, 0.65, 0.66], [0.3, 0.5, 0.7, 0.8, 0.82, 0.82])


def test_a_healthy_course_gives_no_alarm_at_any_epoch() -> None:
    for epochs in range(len(HEALTHY.rows) + 1):
        assert names(TrainingCurves(HEALTHY.rows[:epochs], 20, 500)) == []


def test_a_flat_loss_is_told() -> None:
    flat = course([2.30, 2.31, 2.30, 2.30, 2.31, 2.32], [2.3] * 6, [0.1] * 6)
    (found,) = judge_curves(flat, DEFAULTS)
    assert found.rule == "LossNotDecreasing"
    assert "raise learning_rate" in found.advice


def test_a_growing_loss_asks_for_shorter_steps() -> None:
    (found,) = judge_curves(course([2, 4, 8, 9, 10, 12], [2.3] * 6, [0.1] * 6), DEFAULTS)
    assert "lower learning_rate" in found.advice


def test_a_loss_that_has_come_down_may_rest() -> None:
    assert "LossNotDecreasing" not in names(course([2, 0.4, 0.1, 0.1, 0.1, 0.1, 0.11], [1.0] * 7, [0.8] * 7))


def test_validation_that_gets_worse_while_training_gets_better_is_told() -> None:
    worse = course([2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.4, 1.9], [0.4, 0.7, 0.8, 0.72, 0.65])
    (found,) = judge_curves(worse, DEFAULTS)
    assert found.rule == "Overfit"
    assert "early_stopping_patience" in found.advice


def test_a_gap_alone_is_no_overfitting() -> None:
    gap = course([2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.1, 1.1], [0.4, 0.7, 0.8, 0.8, 0.8])
    assert names(gap) == []


def test_epochs_that_bring_nothing_are_told() -> None:
    (found,) = judge_curves(course([2, 1, *[0.5] * 12], [2, 1, *[0.9] * 12], [0.3, 0.7, *[0.8] * 12]), DEFAULTS)
    assert found.rule == "Overtraining"
    assert found.advice == "set epochs=5."


@pytest.mark.parametrize(
    ("counts", "weighed", "told"),
    [
        ({"a": 1000, "b": 50}, False, True),
        ({"a": 1000, "b": 50}, True, False),
        ({"a": 1000, "b": 200}, False, False),
        ({"a": 32, "b": 1}, False, True),
        ({"a": 5, "b": 0}, False, True),
        ({"a": 10, "b": 1}, False, False),
    ],
)
def test_classes_that_are_too_unequal_are_told(counts: dict[str, int], weighed: bool, told: bool) -> None:
    assert bool(judge_balance(counts, DEFAULTS, Setup(weighs_classes=weighed))) == told


def test_a_rare_class_that_is_mostly_mistaken_is_told() -> None:
    (found,) = judge_classes({"a": 0.9, "b": 0.1}, {"a": 1000, "b": 200}, DEFAULTS, Setup())
    assert "90% of 'b'" in found.seen
    assert found.advice == "set class_weights=balanced, or add records of the rare classes."
    assert judge_classes({"a": 0.9, "b": 0.6}, {"a": 1000, "b": 200}, DEFAULTS, Setup()) == []


def test_what_is_done_already_is_not_advised() -> None:
    (found,) = judge_classes({"a": 0.9, "b": 0.1}, {"a": 1000, "b": 200}, DEFAULTS, Setup(weighs_classes=True))
    assert found.advice == "add records of the rare classes."


def test_a_rule_that_was_not_asked_for_is_silent() -> None:
    assert judge_curves(course([2.3] * 9, [2.3] * 9, [0.1] * 9), {}) == []
    assert judge_balance({"a": 1000, "b": 1}, {}, Setup()) == []
