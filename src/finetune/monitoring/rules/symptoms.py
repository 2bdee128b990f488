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

_FEWEST_EPOCHS = 5
_TURNS = 0.6
"""Share of epochs with a reversal of the loss from which on it counts as oscillating."""
_SWING = 0.25
_LOW, _RISEN = 0.5, 1.5
_MOST_NAMED = 3


def symptoms(course: TrainingCurves, guess: float) -> list[Finding]:
    """Evaluate the metrics of a finished job.

    Args:
        course: Metrics of the whole job.
        guess: Score of the best constant prediction, such as the accuracy of always predicting the most frequent class.
    """
    if course.rows and not math.isfinite(course.rows[-1]["train:loss"]):
        return [_diverged(course)]
    if len(course.rows) < _FEWEST_EPOCHS:
        return []
    checks = (_oscillating(course), _underfit(course, guess), _validation_better(course))
    return [one for one in checks if one is not None]


def _diverged(course: TrainingCurves) -> Finding:
    *before, last = [row["train:loss"] for row in course.rows]
    told = f", {before[-1]:.4g} in the epoch before" if before else ""
    seen = f"the training loss is {last} in epoch {len(course.rows)}{told}"
    return Finding("Diverged", course.step, "curves", seen, sentence(course.setup.slower(10)), grave=True)


def _oscillating(course: TrainingCurves) -> Finding | None:
    losses = [row["train:loss"] for row in course.rows]
    steps = [after - before for before, after in itertools.pairwise(losses)]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(steps)) / max(1, len(steps) - 1)
    swing = statistics.fmean(abs(step) for step in steps) / max(statistics.fmean(losses), 1e-9)
    if turns < _TURNS or swing < _SWING or losses[-1] < _LOW * losses[0]:
        return None
    seen = f"the training loss turned round in {turns:.0%} of the epochs, by {swing:.0%} of its mean"
    return Finding("Oscillating", course.step, "curves", seen, sentence(course.setup.slower(3)))


def _underfit(course: TrainingCurves, guess: float) -> Finding | None:
    last = course.rows[-1]
    trained = score_of(last, "train")
    validated = score_of(last, "validation") if "validation:loss" in last else trained
    gained = (max(trained, validated) - guess) / max(1 - guess, 1e-9)
    first = course.rows[0]["train:loss"]
    # An increased loss calls for a lower learning rate, not a higher one.
    if gained > 0.25 or not _LOW * first <= last["train:loss"] <= _RISEN * first:
        return None
    reached = f"{trained:.1%} of train are right"
    if score_name(last, "train") == "micro_f1":
        reached = f"F1 on train is {trained:.1%}"
    seen = f"after {len(course.rows)} epochs {reached}, a guess has {guess:.1%}"
    return Finding("Underfit", course.step, "curves", seen, sentence(course.setup.fit_better()))


def _validation_better(course: TrainingCurves) -> Finding | None:
    recent: Sequence[tuple[float, float]] = [
        (score_of(row, "train"), score_of(row, "validation")) for row in course.rows[-3:] if "validation:loss" in row
    ]
    if not recent:
        return None
    gaps = [validation - train for train, validation in recent]
    share = recent[-1][1]
    doubt = 3 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, course.validated))
    if min(gaps) <= max(doubt, 0.05):
        return None
    what = "F1" if score_name(course.rows[-1], "validation") == "micro_f1" else "accuracy"
    seen = f"validation {what} is {statistics.fmean(gaps):.1%} above that of train in the last {len(gaps)} epochs"
    return Finding("ValidationBetter", course.step, "curves", seen, _against_better_validation(course.setup))


def _against_better_validation(setup: Setup) -> str:
    ways = [
        "set augmentation=none" if setup.augmentation != "none" else None,
        "lower dropout (dropout=0)" if setup.drops else None,
    ]
    first = " or ".join(way for way in ways if way)
    leakage = "look for records of validation that are in train"
    return f"{first}; {leakage} where neither is the cause." if first else f"{leakage}."


def judge_answers(part: str, metrics: Mapping[str, Any], setup: Setup, *, learned: bool | None) -> list[Finding]:
    """Evaluate the final metrics, after any number of epochs: worse than a guess, or unrecognized classes.

    Args:
        part: Evaluated part.
        metrics: Result of `classification_metrics`.
        setup: Setup of the job.
        learned: Whether training records are predicted clearly better than by guessing; `None` if unknown.
    """
    found = []
    guess = worse_than_guess(metrics)
    if guess is not None:
        what = "F1 is" if "micro" in metrics else "accuracy is"
        answer = ", ".join(guess.answer[:_MOST_NAMED]) + (", …" if len(guess.answer) > _MOST_NAMED else "")
        seen = f"{what} {guess.score:.1%}, always answering {answer!r} gives {guess.baseline:.1%}"
        advice = setup.generalize_better() if learned else setup.fit_better()
        found.append(Finding("WorseThanGuess", None, part, seen, sentence(advice), grave=True))
    missed = never_recognized(metrics)
    if missed:
        names = ", ".join(repr(name) for name in missed[:_MOST_NAMED]) + (", …" if len(missed) > _MOST_NAMED else "")
        seen = f"{len(missed)} of {_evaluated_classes(metrics)} classes are never recognized: {names}"
        advice = setup.weigh_classes() if setup.trains else setup.examine_model()
        found.append(Finding("ZeroRecall", None, part, seen, sentence(advice)))
    return found


@dataclass(frozen=True, slots=True)
class Guess:
    """Constant prediction that is at least as good as the model.

    Attributes:
        score: Score of the model: accuracy, or micro F1 if multi-label.
        baseline: Score of the constant prediction.
        answer: Labels of the constant prediction.
    """

    score: float
    baseline: float
    answer: tuple[str, ...]


def worse_than_guess(metrics: Mapping[str, Any]) -> Guess | None:
    """Return the constant prediction that the model does not outperform, if any.

    If all records are of one class, there is no baseline.
    """
    if "micro" in metrics:
        score, answer = metrics["micro"]["f1"] or 0.0, tuple(metrics["majority_labels"])
        baseline = metrics["majority_baseline_micro_f1"]
    else:
        score, baseline = metrics["accuracy"], metrics["majority_baseline_accuracy"]
        answer = () if metrics["majority_class"] is None else (metrics["majority_class"],)
    return Guess(score, baseline, answer) if answer and score <= baseline and score < 1.0 else None


def never_recognized(metrics: Mapping[str, Any]) -> list[str]:
    """Return classes with records but recall 0, the most frequent first."""
    rows = [row for row in metrics["per_class"] if row["support"] and not row["recall"]]
    return [str(row["label"]) for row in sorted(rows, key=lambda row: -int(row["support"]))]


def _evaluated_classes(metrics: Mapping[str, Any]) -> int:
    return sum(row["support"] > 0 for row in metrics["per_class"])
