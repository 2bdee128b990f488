"""Chooses the validation metric that determines the best epoch."""

from __future__ import annotations

from finetune.config.hyperparameters import JobSpec
from finetune.config.rules import DEFAULTS
from finetune.job.data.inputs import Inputs, target_of, training_counts
from finetune.monitoring.score import METRIC_LABELS, BestMetric

IMBALANCE = DEFAULTS["ClassImbalance"]["threshold_imbalance"]
"""Ratio of the training records of two classes above which epochs are compared by macro F1."""


def choose_best_metric(spec: JobSpec, inputs: Inputs) -> BestMetric:
    """Return the metric that the user set, or the one that suits the job: its own objective, its target, its classes.

    The result is the same in all processes of a job and at every start. See docs/best-epoch.md.
    """
    name = spec.optimization.best_metric
    if name == "none":
        return BestMetric(_choose(spec, inputs)[0], exports=False)
    if name == "auto":
        chosen, reason = _choose(spec, inputs)
        return BestMetric(chosen, reason=reason)
    return BestMetric(_name_at_target(spec) if name == "target" else name)


def _choose(spec: JobSpec, inputs: Inputs) -> tuple[str, str]:
    """Return the metric and the reason for it."""
    part, _, objective = (spec.objective or "").partition(":")
    if part == "validation" and objective in METRIC_LABELS:
        return objective, "the objective metric of the tuner"
    if target_of(spec.observe) is not None:
        return _name_at_target(spec), f"the thresholds are chosen for {target_of(spec.observe)}"
    if inputs.labels.multi_label:
        return "micro_f1", "records have several labels"
    if spec.optimization.class_weights == "balanced":
        return "macro_f1", "class_weights=balanced"
    counts = [count for count in training_counts(inputs).values() if count]
    if counts and max(counts) > IMBALANCE * min(counts):
        ratio = max(counts) / min(counts)
        return "macro_f1", f"a class has {ratio:.0f} times as many training records as another"
    return "accuracy", ""


def _name_at_target(spec: JobSpec) -> str:
    return "recall_at_target" if spec.observe.target_precision is not None else "precision_at_target"
