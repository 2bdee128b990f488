"""Rules on losses and classes: LossNotDecreasing, Overfit, Overtraining, ClassImbalance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup, sentence
from finetune.monitoring.score import score_name, score_of

Row = Mapping[str, float]

RECHECKED_RULES = ("LossNotDecreasing", "Overfit", "Overtraining")
"""Rules on the curve so far, whose findings later epochs may refute."""
_FEWEST_EPOCHS = 3
_LEAST_PATIENCE = 3
_STILL_HIGH = 0.5
"""A loss below this share of its first mean counts as decreased, regardless of its recent course."""


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """Metrics of a job so far.

    Attributes:
        rows: Metrics of every epoch.
        steps_per_epoch: Optimizer steps per epoch.
        validated: Number of validation records, which determines the uncertainty of the score.
        setup: Setup of the job, to tailor the advice.
    """

    rows: Sequence[Row]
    steps_per_epoch: int
    validated: int
    setup: Setup = field(default_factory=Setup)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return len(self.rows) * self.steps_per_epoch


def judge_curves(course: TrainingCurves, rules: Rules) -> list[Finding]:
    """Evaluate the epochs so far; rules that still hold report again, and the caller keeps the first finding."""
    checks = {
        "LossNotDecreasing": _loss_not_decreasing,
        "Overfit": _overfit,
        "Overtraining": _overtraining,
    }
    found = (check(course, rules) for name, check in checks.items() if name in rules and course.rows)
    return [one for one in found if one is not None]


def resolution(course: TrainingCurves) -> str:
    """Describe the end of the curve in numbers, for resolved findings."""
    last = course.rows[-1]
    said = f"training loss {last['train:loss']:.4f}"
    if "validation:loss" in last:
        what = "F1" if score_name(last, "validation") == "micro_f1" else "accuracy"
        said += f", validation loss {last['validation:loss']:.4f}, {what} {score_of(last, 'validation'):.1%}"
    return f"no longer the case after epoch {len(course.rows)}: {said}"


def patience_for_best(rows: Sequence[Row]) -> int:
    """Return the smallest `early_stopping_patience` (at least 3) for which this curve exports its best epoch.

    Args:
        rows: Metrics of epochs with validation; at least one.
    """
    longest, last, reference, lowest = 0, -1, -math.inf, math.inf
    for epoch, row in enumerate(rows[: best_epoch(rows) + 1]):
        score, loss = score_of(row, "validation"), row["validation:loss"]
        if score > reference or (score <= 0 and loss < lowest):
            longest, last, reference = max(longest, epoch - last), epoch, score
        lowest = min(lowest, loss)
    # The best epoch may be a tie with a lower loss, which does not reset the patience.
    return max(_LEAST_PATIENCE, longest, best_epoch(rows) - last)


def best_epoch(rows: Sequence[Row]) -> int:
    """Return the epoch (from 0) with the highest validation score; ties are broken by the lowest loss."""
    return max(range(len(rows)), key=lambda at: (score_of(rows[at], "validation"), -_worst(rows[at])))


def _worst(row: Row) -> float:
    loss = row["validation:loss"]
    return math.inf if math.isnan(loss) else loss


def _loss_not_decreasing(course: TrainingCurves, rules: Rules) -> Finding | None:
    parameters = rules["LossNotDecreasing"]
    # The loss of a single step depends mostly on its batch, so compare epochs that span the configured steps.
    span = max(_FEWEST_EPOCHS, math.ceil(parameters["num_steps"] / course.steps_per_epoch))
    losses = [row["train:loss"] for row in course.rows]
    if len(losses) <= span or losses[-1] < _STILL_HIGH * losses[0]:
        return None
    earlier = losses[-1 - span]
    if min(losses[-span:]) < earlier * (1 - parameters["diff_percent"] / 100):
        return None
    seen = f"the training loss is {losses[-1]:.4f}, {span} epochs ago it was {earlier:.4f}"
    return Finding("LossNotDecreasing", course.step, _epoch(course), seen, _flat(course))


def _flat(course: TrainingCurves) -> str:
    setup = course.setup
    if course.rows[-1]["train:loss"] > 1.5 * course.rows[0]["train:loss"]:
        return f"{setup.slower(10)}: the steps are too long."
    faster, more = setup.faster(3), setup.train_more_layers()
    if faster and more:
        return f"{faster}; where that changes nothing, {more}."
    return sentence(faster or more or "check the labels of the training records")


def _overfit(course: TrainingCurves, rules: Rules) -> Finding | None:
    """Unlike the service, which compares both losses, also require a significant decline in validation."""
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
    scores = [score_of(row, "validation") for row in rows]
    highest = max(scores)
    lost = highest - max(scores[-len(recent) :])
    if not (gap and rising and lost > _doubt(highest, course.validated)):
        return None
    last = rows[-1]
    what = "F1" if score_name(last, "validation") == "micro_f1" else "accuracy"
    seen = (
        f"validation loss rose from {least:.4f} to {last['validation:loss']:.4f} while the training loss fell to"
        f" {last['train:loss']:.4f}, and {lost:.1%} of validation {what} was lost"
    )
    return Finding("Overfit", course.step, _epoch(course), seen, _against_overfit(course, rows))


def _against_overfit(course: TrainingCurves, rows: Sequence[Row]) -> str:
    setup = course.setup
    if setup.patience is not None:
        return f"{setup.generalize_better()}; the weights of the best epoch are kept already."
    return f"set early_stopping_patience={patience_for_best(rows)}, which keeps the best epoch."


def _doubt(share: float, records: int) -> float:
    """Return two standard errors of a share."""
    return 2 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, records))


def _overtraining(course: TrainingCurves, rules: Rules) -> Finding | None:
    parameters = rules["Overtraining"]
    rows = course.rows
    waits = {
        part: _epochs_without_gain([row.get(f"{part}:loss", math.nan) for row in rows], parameters["delta"])
        for part in ("train", "validation")
    }
    if "validation:loss" not in rows[-1]:
        return None
    scores = [score_of(row, "validation") for row in rows]
    waited = len(rows) - 1 - scores.index(max(scores))
    enough = min(waits["validation"], waited) >= parameters["patience_validation"]
    if not (enough and waits["train"] >= parameters["patience_train"]):
        return None
    what = "F1" if score_name(rows[-1], "validation") == "micro_f1" else "accuracy"
    seen = f"for {min(waited, waits['validation'])} epochs neither the losses nor the validation {what} improved"
    return Finding("Overtraining", course.step, _epoch(course), seen, f"set epochs={len(rows) - waited + 2}.")


def _epochs_without_gain(losses: Sequence[float], delta: float) -> int:
    best, at = losses[0], 0
    for epoch, loss in enumerate(losses):
        if loss < best - delta:
            best, at = loss, epoch
    return len(losses) - 1 - at


def _epoch(course: TrainingCurves) -> str:
    return f"epoch {len(course.rows)}"


def judge_balance(counts: Mapping[str, int], rules: Rules, setup: Setup) -> list[Finding]:
    """Check whether the training classes are too imbalanced, unless the loss weights them.

    Args:
        counts: Training records by class; empty if unknown.
        rules: Rules by name.
        setup: Setup of the job.
    """
    parameters = rules.get("ClassImbalance")
    if parameters is None or setup.weighs_classes or not counts or sum(counts.values()) < parameters["samples"]:
        return []
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] <= parameters["threshold_imbalance"] * counts[least]:
        return []
    seen = f"{counts[most]:,} records of {most!r} against {counts[least]:,} of {least!r}"
    # Weighting cannot help a class without records.
    advice = setup.weigh_classes() if counts[least] else f"add records of {least!r}"
    return [Finding("ClassImbalance", None, "train", seen, sentence(advice))]


def judge_classes(recalls: Mapping[str, float], counts: Mapping[str, int], rules: Rules, setup: Setup) -> list[Finding]:
    """Check whether a class with few training records is mostly misclassified in the evaluation.

    Args:
        recalls: Recall of every evaluated class.
        counts: Training records by class; empty if unknown.
        rules: Rules by name.
        setup: Setup of the job.
    """
    parameters = rules.get("ClassImbalance")
    if parameters is None or not counts or sum(counts.values()) < parameters["samples"]:
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
    return [Finding("ClassImbalance", None, "evaluation", seen, sentence(setup.weigh_classes()))]
