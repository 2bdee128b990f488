"""Metrics that are computed after an epoch only if they determine the best epoch."""

from __future__ import annotations

from statistics import fmean

from finetune.tasks.task import Probabilities, Targets, Task
from finetune.tasks.thresholds import ThresholdTarget


def epoch_metric(
    task: Task, name: str, targets: Targets, probabilities: Probabilities, target: ThresholdTarget | None
) -> float | None:
    """Return a metric of the validation records of an epoch; `None` if the records do not define it.

    Args:
        task: The task.
        name: `macro_f1`, `auc`, `recall_at_target` or `precision_at_target`.
        targets: Targets of the records.
        probabilities: Predictions for the records.
        target: Target precision or recall, for the last two metrics.

    Raises:
        ValueError: The metric is unknown, or has no target.
    """
    if not len(targets):
        return None
    match name:
        case "macro_f1":
            return task.macro_f1(targets, probabilities)
        case "auc":
            return task.macro_auc(targets, probabilities)
        case "recall_at_target" | "precision_at_target" if target is not None:
            return _quality_at_target(task, targets, probabilities, target)
    raise ValueError(f"metric {name!r} with target {target}")


def _quality_at_target(
    task: Task, targets: Targets, probabilities: Probabilities, target: ThresholdTarget
) -> float | None:
    """Return the recall at a target precision, or the reverse, averaged over the classes that have thresholds.

    A class that does not reach the target counts as 0.
    """
    chosen = task.choose_thresholds(targets, probabilities, target)
    by_class = task.metrics_at_thresholds(targets, probabilities, chosen)
    quantity = "recall" if target.precision is not None else "precision"
    return fmean(0.0 if name in chosen.missed else metrics[quantity] or 0.0 for name, metrics in by_class.items())
