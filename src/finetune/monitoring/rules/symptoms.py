"""Symptoms of a whole job in its curves and final evaluation, each with a next step."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.monitoring.rules.curves import TrainingCurves
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.setup import Setup, sentence
from finetune.monitoring.score import score_name, score_of

_MIN_EPOCHS = 5
_MIN_REVERSALS = 0.6
"""Share of epochs with a reversal of the loss from which on it counts as oscillating."""
_MIN_SWING = 0.25
_DECREASED, _INCREASED = 0.5, 1.5
_MAX_SHOWN_NAMES = 3


def check_training(curves: TrainingCurves, guess: float) -> list[Finding]:
    """Evaluate the metrics of a finished job.

    Args:
        curves: Metrics of the whole job.
        guess: Score of the best constant prediction, such as the accuracy of always predicting the most frequent class.
    """
    if curves.rows and not math.isfinite(curves.rows[-1]["train:loss"]):
        return [_diverged(curves)]
    if len(curves.rows) < _MIN_EPOCHS:
        return []
    checks = (_oscillating(curves), _underfit(curves, guess), _validation_better(curves))
    return [finding for finding in checks if finding is not None]


def _diverged(curves: TrainingCurves) -> Finding:
    *before, last = [row["train:loss"] for row in curves.rows]
    previous = f", after {before[-1]:.4g} in the previous epoch" if before else ""
    observation = f"the training loss is {last} in epoch {curves.epoch}{previous}"
    advice = sentence(curves.setup.lower_learning_rate(10))
    return Finding("Diverged", curves.step, "curves", observation, advice, severe=True)


def _oscillating(curves: TrainingCurves) -> Finding | None:
    losses = [row["train:loss"] for row in curves.rows]
    steps = [after - before for before, after in itertools.pairwise(losses)]
    reversals = sum(a * b < 0 for a, b in itertools.pairwise(steps)) / max(1, len(steps) - 1)
    swing = statistics.fmean(abs(step) for step in steps) / max(statistics.fmean(losses), 1e-9)
    if reversals < _MIN_REVERSALS or swing < _MIN_SWING or losses[-1] < _DECREASED * losses[0]:
        return None
    observation = f"the training loss changed direction in {reversals:.0%} of the epochs, by {swing:.0%} of its mean"
    return Finding("Oscillating", curves.step, "curves", observation, sentence(curves.setup.lower_learning_rate(3)))


def _underfit(curves: TrainingCurves, guess: float) -> Finding | None:
    last = curves.rows[-1]
    trained = score_of(last, "train")
    validated = score_of(last, "validation") if "validation:loss" in last else trained
    gain = (max(trained, validated) - guess) / max(1 - guess, 1e-9)
    first = curves.rows[0]["train:loss"]
    # An increased loss calls for a lower learning rate, not a higher one.
    if gain > 0.25 or not _DECREASED * first <= last["train:loss"] <= _INCREASED * first:
        return None
    score_text = f"training accuracy is {trained:.1%}"
    if score_name(last, "train") == "micro_f1":
        score_text = f"training F1 is {trained:.1%}"
    observation = f"after {len(curves.rows)} epochs {score_text}; the best constant prediction has {guess:.1%}"
    return Finding("Underfit", curves.step, "curves", observation, sentence(curves.setup.fit_better()))


def _validation_better(curves: TrainingCurves) -> Finding | None:
    recent: Sequence[tuple[float, float]] = [
        (score_of(row, "train"), score_of(row, "validation")) for row in curves.rows[-3:] if "validation:loss" in row
    ]
    if not recent:
        return None
    gaps = [validation - train for train, validation in recent]
    share = recent[-1][1]
    margin = 3 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, curves.validation_records))
    if min(gaps) <= max(margin, 0.05):
        return None
    metric = "F1" if score_name(curves.rows[-1], "validation") == "micro_f1" else "accuracy"
    observation = (
        f"validation {metric} is {statistics.fmean(gaps):.1%} above that of train in the last {len(gaps)} epochs"
    )
    return Finding("ValidationBetter", curves.step, "curves", observation, _validation_better_advice(curves.setup))


def _validation_better_advice(setup: Setup) -> str:
    options = [
        "set augmentation=none" if setup.augmentation != "none" else None,
        "lower dropout (dropout=0)" if setup.has_dropout else None,
    ]
    first = " or ".join(option for option in options if option)
    leakage = "check for validation records that are also in train"
    return f"{first}; if that does not help, {leakage}." if first else f"{leakage}."


def check_evaluation(part: str, metrics: Mapping[str, Any], setup: Setup, *, learned: bool | None) -> list[Finding]:
    """Evaluate the final metrics, after any number of epochs: worse than a guess, or unrecognized classes.

    Args:
        part: Evaluated part.
        metrics: Metrics of the part (`tasks.metrics`).
        setup: Setup of the job.
        learned: Whether training records are predicted clearly better than by guessing; `None` if unknown.
    """
    findings = []
    guess = worse_than_guess(metrics)
    if guess is not None:
        metric = "F1 is" if "micro" in metrics else "accuracy is"
        answer = ", ".join(guess.labels[:_MAX_SHOWN_NAMES]) + (", …" if len(guess.labels) > _MAX_SHOWN_NAMES else "")
        observation = f"{metric} {guess.score:.1%}; always predicting {answer!r} gives {guess.baseline:.1%}"
        advice = setup.generalize_better() if learned else setup.fit_better()
        findings.append(Finding("WorseThanGuess", None, part, observation, sentence(advice), severe=True))
    unrecognized = zero_recall_classes(metrics)
    if unrecognized:
        names = ", ".join(repr(name) for name in unrecognized[:_MAX_SHOWN_NAMES])
        names += ", …" if len(unrecognized) > _MAX_SHOWN_NAMES else ""
        observation = f"{len(unrecognized)} of {_evaluated_classes(metrics)} classes are never recognized: {names}"
        advice = setup.balance_classes() if setup.trains else setup.examine_model()
        findings.append(Finding("ZeroRecall", None, part, observation, sentence(advice)))
    return findings


@dataclass(frozen=True, slots=True)
class ConstantPrediction:
    """Constant prediction that is at least as good as the model.

    Attributes:
        score: Score of the model: accuracy, or micro F1 if multi-label.
        baseline: Score of the constant prediction.
        labels: Labels of the constant prediction.
    """

    score: float
    baseline: float
    labels: tuple[str, ...]


def worse_than_guess(metrics: Mapping[str, Any]) -> ConstantPrediction | None:
    """Return the constant prediction that the model does not outperform, if any.

    If all records are of one class, there is no baseline.
    """
    if "micro" in metrics:
        score, answer = metrics["micro"]["f1"] or 0.0, tuple(metrics["majority_labels"])
        baseline = metrics["majority_baseline_micro_f1"]
    else:
        score, baseline = metrics["accuracy"], metrics["majority_baseline_accuracy"]
        answer = () if metrics["majority_class"] is None else (metrics["majority_class"],)
    return ConstantPrediction(score, baseline, answer) if answer and score <= baseline and score < 1.0 else None


def zero_recall_classes(metrics: Mapping[str, Any]) -> list[str]:
    """Return classes with records but recall 0, the most frequent first."""
    rows = [row for row in metrics["per_class"] if row["support"] and not row["recall"]]
    return [str(row["label"]) for row in sorted(rows, key=lambda row: -int(row["support"]))]


def _evaluated_classes(metrics: Mapping[str, Any]) -> int:
    return sum(row["support"] > 0 for row in metrics["per_class"])
