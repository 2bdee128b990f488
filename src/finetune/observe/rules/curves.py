"""The rules about losses and classes: LossNotDecreasing, Overfit, Overtraining, ClassImbalance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.observe.rules.finding import Finding, Rules

Row = Mapping[str, float]

_FEWEST_EPOCHS = 3
_STILL_HIGH = 0.5
"""A loss that is below this share of its first mean has decreased, whatever it did lately."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the job came to so far.

    Attributes:
        rows: metrics of every epoch.
        steps_per_epoch: optimizer steps.
        validated: records of validation, which decide how certain its accuracy is.
    """

    rows: Sequence[Row]
    steps_per_epoch: int
    validated: int

    @property
    def step(self) -> int:
        """Steps that were done."""
        return len(self.rows) * self.steps_per_epoch


def judge_curves(course: Course, rules: Rules) -> list[Finding]:
    """What the epochs up to now show; a rule that holds still says so again, whoever asks keeps the first."""
    checks = {
        "LossNotDecreasing": _loss_not_decreasing,
        "Overfit": _overfit,
        "Overtraining": _overtraining,
    }
    found = (check(course, rules) for name, check in checks.items() if name in rules and course.rows)
    return [one for one in found if one is not None]


def _loss_not_decreasing(course: Course, rules: Rules) -> Finding | None:
    parameters = rules["LossNotDecreasing"]
    # The loss of a single step says more about its batch: epochs are compared, as many as span the asked steps.
    span = max(_FEWEST_EPOCHS, math.ceil(parameters["num_steps"] / course.steps_per_epoch))
    losses = [row["train:loss"] for row in course.rows]
    if len(losses) <= span or losses[-1] < _STILL_HIGH * losses[0]:
        return None
    earlier = losses[-1 - span]
    if min(losses[-span:]) < earlier * (1 - parameters["diff_percent"] / 100):
        return None
    seen = f"the training loss is {losses[-1]:.4f}, {span} epochs ago it was {earlier:.4f}"
    return Finding("LossNotDecreasing", course.step, _epoch(course), seen, _flat(course))


def _flat(course: Course) -> str:
    if course.rows[-1]["train:loss"] > 1.5 * course.rows[0]["train:loss"]:
        return "lower learning_rate to a tenth: the steps are too long."
    return "raise learning_rate threefold; where that changes nothing, train more layers (strategy=full)."


def _overfit(course: Course, rules: Rules) -> Finding | None:
    """The service compares both losses; here validation must also be getting worse, by more than chance explains."""
    parameters = rules["Overfit"]
    rows = [row for row in course.rows if "validation:loss" in row]
    if len(rows) < 2 or course.step < parameters["start_step"]:
        return None
    best = min(range(len(rows)), key=lambda at: rows[at]["validation:loss"])
    since = rows[best + 1 :]
    if len(since) < max(1.0, parameters["patience"]):
        return None
    ratio, least = parameters["ratio_threshold"], rows[best]["validation:loss"]
    recent = since[-max(1, int(parameters["patience"])) :]
    gap = all(row["validation:loss"] - row["train:loss"] > ratio * row["train:loss"] for row in recent)
    rising = all(row["validation:loss"] > (1 + ratio) * least for row in recent)
    accuracy = max(row["validation:accuracy"] for row in rows)
    lost = accuracy - max(row["validation:accuracy"] for row in recent)
    if not (gap and rising and lost > _doubt(accuracy, course.validated)):
        return None
    last = rows[-1]
    seen = (
        f"validation loss rose from {least:.4f} to {last['validation:loss']:.4f} while the training loss fell to"
        f" {last['train:loss']:.4f}, and {lost:.1%} of validation accuracy was lost"
    )
    return Finding(
        "Overfit", course.step, _epoch(course), seen, "set early_stopping_patience=3, which keeps the best epoch."
    )


def _doubt(share: float, records: int) -> float:
    """Two standard errors of a share."""
    return 2 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, records))


def _overtraining(course: Course, rules: Rules) -> Finding | None:
    parameters = rules["Overtraining"]
    rows = course.rows
    waits = {
        part: _epochs_without_gain([row.get(f"{part}:loss", math.nan) for row in rows], parameters["delta"])
        for part in ("train", "validation")
    }
    if "validation:loss" not in rows[-1]:
        return None
    accuracies = [row["validation:accuracy"] for row in rows]
    waited = len(rows) - 1 - accuracies.index(max(accuracies))
    enough = min(waits["validation"], waited) >= parameters["patience_validation"]
    if not (enough and waits["train"] >= parameters["patience_train"]):
        return None
    seen = f"for {min(waited, waits['validation'])} epochs neither the losses nor the validation accuracy improved"
    return Finding("Overtraining", course.step, _epoch(course), seen, f"set epochs={len(rows) - waited + 2}.")


def _epochs_without_gain(losses: Sequence[float], delta: float) -> int:
    best, at = losses[0], 0
    for epoch, loss in enumerate(losses):
        if loss < best - delta:
            best, at = loss, epoch
    return len(losses) - 1 - at


def _epoch(course: Course) -> str:
    return f"epoch {len(course.rows)}"


def judge_balance(counts: Mapping[str, int], rules: Rules, *, weighed: bool) -> list[Finding]:
    """Whether the classes of the training records are too unequal, unless the loss weighs them."""
    parameters = rules.get("ClassImbalance")
    if parameters is None or weighed or not counts or sum(counts.values()) < parameters["samples"]:
        return []
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    ratio = counts[most] / max(1, counts[least])
    if ratio <= parameters["threshold_imbalance"]:
        return []
    seen = f"{counts[most]:,} records of {most!r} against {counts[least]:,} of {least!r}"
    return [Finding("ClassImbalance", None, "train", seen, "set class_weights=balanced.")]


def judge_classes(
    recalls: Mapping[str, float], counts: Mapping[str, int], rules: Rules, *, weighed: bool
) -> list[Finding]:
    """Whether a class with few training records is mostly mistaken in the evaluation.

    Args:
        recalls: of every class that was evaluated.
        counts: training records of every class.
        rules: by name.
        weighed: whether the loss weighed rare classes more, so that only more records are left to advise.
    """
    parameters = rules.get("ClassImbalance")
    if parameters is None or sum(counts.values()) < parameters["samples"]:
        return []
    usual = sum(counts.values()) / len(counts)
    rare = [
        name
        for name, recall in recalls.items()
        if 1 - recall > parameters["threshold_misprediction"] and counts.get(name, 0) < usual / 2
    ]
    if not rare:
        return []
    worst = min(rare, key=lambda name: recalls[name])
    seen = f"{1 - recalls[worst]:.0%} of {worst!r} are mistaken, which has {counts.get(worst, 0):,} training records"
    advice = "give it more records, or augmentation=strong." if weighed else "set class_weights=balanced."
    return [Finding("ClassImbalance", None, "evaluation", seen, advice)]
