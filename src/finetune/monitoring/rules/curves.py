"""Rules on losses and classes: LossNotDecreasing, Overfit, ExplodingLoss, Overtraining, ClassImbalance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup, sentence
from finetune.monitoring.score import best_epoch, rank_of, score_name, score_of

Row = Mapping[str, float]

RECHECKED_RULES = ("LossNotDecreasing", "Overfit", "ExplodingLoss", "Overtraining")
"""Rules on the curve so far, whose findings later epochs may refute."""
_MIN_EPOCHS = 3
_MIN_PATIENCE = 3
LEARNED_SHARE = 0.25
"""Share of the distance from chance level to a perfect score above which records count as learned."""
_HIGH_LOSS_SHARE = 0.5
"""A loss below this share of its first mean counts as decreased, regardless of its recent course."""


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """Metrics of a job so far.

    Attributes:
        rows: Metrics of every epoch.
        steps_per_epoch: Optimizer steps per epoch.
        validation_records: Number of validation records, which determines the uncertainty of the score.
        setup: Setup of the job, to tailor the advice.
        first_epoch: Number of epochs before the first row, which solved the head.
    """

    rows: Sequence[Row]
    steps_per_epoch: int
    validation_records: int
    setup: Setup = field(default_factory=Setup)
    first_epoch: int = 0

    @property
    def epoch(self) -> int:
        """Number of the last epoch, counted from 1."""
        return self.first_epoch + len(self.rows)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.first_epoch + len(self.rows) * self.steps_per_epoch

    def learned(self, guess: float) -> bool:
        """Return whether the last epoch is clearly better than a guess, on validation or without it on training.

        Args:
            guess: Score of the best constant prediction.
        """
        last = self.rows[-1]
        score = score_of(last, "validation" if "validation:loss" in last else "train")
        return score > guess + LEARNED_SHARE * (1 - guess)


def check_curves(curves: TrainingCurves, rules: Rules) -> list[Finding]:
    """Evaluate the epochs so far; rules that still hold report again, and the caller keeps the first finding."""
    checks = {
        "LossNotDecreasing": _loss_not_decreasing,
        "Overfit": _overfit,
        "ExplodingLoss": _exploding_loss,
        "Overtraining": _overtraining,
    }
    findings = (check(curves, rules) for name, check in checks.items() if name in rules and curves.rows)
    return [finding for finding in findings if finding is not None]


def resolution(curves: TrainingCurves) -> str:
    """Describe the end of the curve in numbers, for resolved findings."""
    last = curves.rows[-1]
    text = f"training loss {last['train:loss']:.4f}"
    if "validation:loss" in last:
        metric = "F1" if score_name(last, "validation") == "micro_f1" else "accuracy"
        text += f", validation loss {last['validation:loss']:.4f}, {metric} {score_of(last, 'validation'):.1%}"
    return f"no longer holds after epoch {curves.epoch}: {text}"


def patience_for_best(rows: Sequence[Row], metric: str) -> int:
    """Return the smallest `early_stopping_patience` (at least 3) for which this curve exports its best epoch.

    Args:
        rows: Metrics of epochs with validation; at least one.
        metric: Metric that determines the best epoch.
    """
    best = best_epoch(rows, metric)
    longest_wait, last, reference, lowest = 0, -1, -math.inf, math.inf
    for epoch, row in enumerate(rows[: best + 1]):
        score, negated_loss = rank_of(row, metric)
        if score > reference or (metric != "loss" and score <= 0 and -negated_loss < lowest):
            longest_wait, last, reference = max(longest_wait, epoch - last), epoch, score
        lowest = min(lowest, -negated_loss)
    # The best epoch may be a tie with a lower loss, which does not reset the patience.
    return max(_MIN_PATIENCE, longest_wait, best - last)


def _loss_not_decreasing(curves: TrainingCurves, rules: Rules) -> Finding | None:
    parameters = rules["LossNotDecreasing"]
    # The loss of a single step depends mostly on its batch, so compare epochs that span the configured steps.
    span = max(_MIN_EPOCHS, math.ceil(parameters["num_steps"] / curves.steps_per_epoch))
    losses = [row["train:loss"] for row in curves.rows]
    if len(losses) <= span or losses[-1] < _HIGH_LOSS_SHARE * losses[0]:
        return None
    earlier = losses[-1 - span]
    if min(losses[-span:]) < earlier * (1 - parameters["diff_percent"] / 100):
        return None
    observation = f"the training loss is {losses[-1]:.4f}; {span} epochs ago it was {earlier:.4f}"
    return Finding("LossNotDecreasing", curves.step, _epoch_name(curves), observation, _flat_loss_advice(curves))


def _flat_loss_advice(curves: TrainingCurves) -> str:
    setup = curves.setup
    excessive_rate = setup.excessive_learning_rate()
    if excessive_rate is not None:
        return sentence(setup.reduce_learning_rate(excessive_rate))
    if curves.rows[-1]["train:loss"] > 1.5 * curves.rows[0]["train:loss"]:
        return f"{setup.lower_learning_rate(10)}: the updates are too large."
    higher_rate, more_layers = setup.raise_learning_rate(3), setup.train_more_layers()
    if higher_rate and more_layers:
        return f"{higher_rate}; if that does not help, {more_layers}."
    return sentence(higher_rate or more_layers or "check the labels of the training records")


def _overfit(curves: TrainingCurves, rules: Rules) -> Finding | None:
    """Unlike the service, which compares both losses, also require a significant decline in validation."""
    parameters = rules["Overfit"]
    rows = [row for row in curves.rows if "validation:loss" in row]
    if len(rows) < 2 or curves.step < parameters["start_step"]:
        return None
    best = min(range(len(rows)), key=lambda epoch: rows[epoch]["validation:loss"])
    later_rows = rows[best + 1 :]
    if len(later_rows) < max(1.0, parameters["patience"]):
        return None
    ratio, lowest_loss = parameters["ratio_threshold"], rows[best]["validation:loss"]
    recent = later_rows[-max(1, int(parameters["patience"])) :]
    has_gap = all(row["validation:loss"] - row["train:loss"] > ratio * row["train:loss"] for row in recent)
    is_rising = all(row["validation:loss"] > (1 + ratio) * lowest_loss for row in recent)
    scores = [score_of(row, "validation") for row in rows]
    highest = max(scores)
    lost_score = highest - max(scores[-len(recent) :])
    if not (has_gap and is_rising and lost_score > _two_standard_errors(highest, curves.validation_records)):
        return None
    last = rows[-1]
    metric = "F1" if score_name(last, "validation") == "micro_f1" else "accuracy"
    observation = (
        f"validation loss rose from {lowest_loss:.4f} to {last['validation:loss']:.4f} while the training loss fell to"
        f" {last['train:loss']:.4f}, and validation {metric} fell by {lost_score:.1%}"
    )
    return Finding("Overfit", curves.step, _epoch_name(curves), observation, _overfit_advice(curves, rows))


def _overfit_advice(curves: TrainingCurves, rows: Sequence[Row]) -> str:
    setup = curves.setup
    if not setup.best_metric.exports:
        return "remove best_metric=none to export the best epoch."
    if setup.patience is not None:
        return f"{setup.generalize_better()}; the weights of the best epoch are already exported."
    patience = patience_for_best(rows, setup.best_metric.name)
    return f"set early_stopping_patience={patience} to end training after the best epoch, which is exported."


def exploded(row: Row, guess_loss: float, threshold: float) -> bool:
    """Return whether the validation loss of an epoch is far above that of guessing, or not finite.

    Args:
        row: Metrics of the epoch.
        guess_loss: Loss of predicting all classes with equal probability.
        threshold: Multiple of it from which on the loss has exploded.
    """
    if "validation:loss" not in row:
        return False
    loss: float | None = row["validation:loss"]
    # In a report, a number that is not finite is `None`.
    return loss is None or not math.isfinite(loss) or loss >= threshold * guess_loss


def _exploding_loss(curves: TrainingCurves, rules: Rules) -> Finding | None:
    setup, last = curves.setup, curves.rows[-1]
    if not exploded(last, setup.guess_loss, rules["ExplodingLoss"]["threshold"]):
        return None
    lowest = min(_comparable_loss(row) for row in curves.rows if "validation:loss" in row)
    observation = (
        f"the validation loss is {last['validation:loss']:.4g}, that of guessing is {setup.guess_loss:.3f}, and the"
        f" lowest was {lowest:.4g}"
    )
    rate = setup.excessive_learning_rate()
    advice = setup.lower_learning_rate(10) if rate is None else setup.reduce_learning_rate(rate)
    return Finding("ExplodingLoss", curves.step, _epoch_name(curves), observation, sentence(advice), severe=True)


def _comparable_loss(row: Row) -> float:
    loss = row["validation:loss"]
    return math.inf if math.isnan(loss) else loss


def _two_standard_errors(share: float, records: int) -> float:
    """Return two standard errors of a share."""
    return 2 * math.sqrt(max(share * (1 - share), 1e-4) / max(1, records))


def _overtraining(curves: TrainingCurves, rules: Rules) -> Finding | None:
    parameters = rules["Overtraining"]
    rows = curves.rows
    waits = {
        part: _epochs_without_improvement([row.get(f"{part}:loss", math.nan) for row in rows], parameters["delta"])
        for part in ("train", "validation")
    }
    if "validation:loss" not in rows[-1]:
        return None
    scores = [score_of(row, "validation") for row in rows]
    waited_epochs = len(rows) - 1 - scores.index(max(scores))
    enough = min(waits["validation"], waited_epochs) >= parameters["patience_validation"]
    if not (enough and waits["train"] >= parameters["patience_train"]):
        return None
    metric = "F1" if score_name(rows[-1], "validation") == "micro_f1" else "accuracy"
    epochs = min(waited_epochs, waits["validation"])
    observation = f"neither the losses nor the validation {metric} improved for {epochs} epochs"
    advice = f"set epochs={len(rows) - waited_epochs + 2}."
    return Finding("Overtraining", curves.step, _epoch_name(curves), observation, advice)


def _epochs_without_improvement(losses: Sequence[float], delta: float) -> int:
    best, best_epoch = losses[0], 0
    for epoch, loss in enumerate(losses):
        if loss < best - delta:
            best, best_epoch = loss, epoch
    return len(losses) - 1 - best_epoch


def _epoch_name(curves: TrainingCurves) -> str:
    return f"epoch {curves.epoch}"


def check_class_balance(counts: Mapping[str, int], rules: Rules, setup: Setup) -> list[Finding]:
    """Check whether the training classes are too imbalanced, unless the loss weights them.

    Args:
        counts: Training records by class; empty if unknown.
        rules: Rules by name.
        setup: Setup of the job.
    """
    parameters = rules.get("ClassImbalance")
    if parameters is None or setup.has_class_weights or not counts or sum(counts.values()) < parameters["samples"]:
        return []
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[largest] <= parameters["threshold_imbalance"] * counts[smallest]:
        return []
    observation = f"{counts[largest]:,} records of {largest!r} but only {counts[smallest]:,} of {smallest!r}"
    # Weighting cannot help a class without records.
    advice = setup.balance_classes() if counts[smallest] else f"add records of {smallest!r}"
    return [Finding("ClassImbalance", None, "train", observation, sentence(advice))]


def check_rare_classes(
    recalls: Mapping[str, float], counts: Mapping[str, int], rules: Rules, setup: Setup
) -> list[Finding]:
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
    mean_count = sum(counts.values()) / len(counts)
    rare = [
        name
        for name, recall in recalls.items()
        if 1 - recall > parameters["threshold_misprediction"] and counts.get(name, 0) < mean_count / 2
    ]
    if not rare:
        return []
    worst = min(rare, key=lambda name: recalls[name])
    observation = (
        f"{1 - recalls[worst]:.0%} of {worst!r}, which has {counts.get(worst, 0):,} training records, are misclassified"
    )
    return [Finding("ClassImbalance", None, "evaluation", observation, sentence(setup.balance_classes()))]
