"""Symptoms of a whole course: what the curves say together, each with the one thing to do next."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from finetune.observe.rules.curves import Course
from finetune.observe.rules.finding import Finding

_FEWEST_EPOCHS = 5
_TURNS = 0.6
"""Share of the epochs in which the loss turns round, from which on it swings."""
_SWING = 0.25
_LOW, _RISEN = 0.5, 1.5


def symptoms(course: Course, guess: float) -> list[Finding]:
    """What a course that is over shows.

    Args:
        course: of the whole job.
        guess: accuracy of always naming the commonest class.
    """
    if course.rows and not math.isfinite(course.rows[-1]["train:loss"]):
        return [_diverged(course)]
    if len(course.rows) < _FEWEST_EPOCHS:
        return []
    checks = (_oscillating(course), _underfit(course, guess), _validation_better(course))
    return [one for one in checks if one is not None]


def _diverged(course: Course) -> Finding:
    *before, last = [row["train:loss"] for row in course.rows]
    told = f", {before[-1]:.4g} in the epoch before" if before else ""
    seen = f"the training loss is {last} in epoch {len(course.rows)}{told}"
    return Finding("Diverged", course.step, "curves", seen, "lower learning_rate to a tenth.", grave=True)


def _oscillating(course: Course) -> Finding | None:
    losses = [row["train:loss"] for row in course.rows]
    steps = [after - before for before, after in itertools.pairwise(losses)]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(steps)) / max(1, len(steps) - 1)
    swing = statistics.fmean(abs(step) for step in steps) / max(statistics.fmean(losses), 1e-9)
    if turns < _TURNS or swing < _SWING or losses[-1] < _LOW * losses[0]:
        return None
    seen = f"the training loss turned round in {turns:.0%} of the epochs, by {swing:.0%} of its mean"
    return Finding("Oscillating", course.step, "curves", seen, "lower learning_rate to a third.")


def _underfit(course: Course, guess: float) -> Finding | None:
    last = course.rows[-1]
    trained, validated = last["train:accuracy"], last.get("validation:accuracy", last["train:accuracy"])
    gained = (max(trained, validated) - guess) / max(1 - guess, 1e-9)
    first = course.rows[0]["train:loss"]
    # A loss that has risen asks for shorter steps, not for longer ones.
    if gained > 0.25 or not _LOW * first <= last["train:loss"] <= _RISEN * first:
        return None
    seen = f"after {len(course.rows)} epochs {trained:.1%} of train are right, a guess has {guess:.1%}"
    advice = "train more layers (strategy=full), with learning_rate tripled."
    return Finding("Underfit", course.step, "curves", seen, advice)


def _validation_better(course: Course) -> Finding | None:
    recent: Sequence[tuple[float, float]] = [
        (row["train:accuracy"], row["validation:accuracy"]) for row in course.rows[-3:] if "validation:accuracy" in row
    ]
    if not recent:
        return None
    gaps = [validation - train for train, validation in recent]
    share = recent[-1][1]
    doubt = 3 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, course.validated))
    if min(gaps) <= max(doubt, 0.05):
        return None
    seen = f"validation accuracy is {statistics.fmean(gaps):.1%} above that of train in the last {len(gaps)} epochs"
    advice = "set augmentation=none or a lower dropout; look for leakage where neither is the cause."
    return Finding("ValidationBetter", course.step, "curves", seen, advice)
