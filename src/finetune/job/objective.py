"""Refuses a tuning objective that the job never logs, before any data is read."""

from __future__ import annotations

from collections.abc import Collection

from finetune.config.compat.aliases import OBJECTIVE
from finetune.config.faults import shown
from finetune.config.hyperparameters import JobSpec
from finetune.errors import UserError, did_you_mean
from finetune.monitoring.metric_lines import METRICS

_NAMING = "A metric definition must have the name that the log has, as in docs/metric_definitions.json."


def check_objective(spec: JobSpec, purposes: Collection[str]) -> None:
    """Check that the job logs the objective metric of the tuner.

    Args:
        spec: the checked hyperparameters.
        purposes: purposes of the channels, such as `train`.

    Raises:
        UserError: the job never logs this metric; the message gives the reason and the metrics it does log.
    """
    if spec.objective is None:
        return
    parts = _evaluated_parts(spec, purposes)
    printed = [
        metric.name
        for metric in METRICS
        if metric.name.partition(":")[0] in parts and (spec.data.multi_label or not metric.multi_label)
    ]
    if spec.objective in printed:
        return
    known = {metric.name: metric for metric in METRICS}
    if spec.objective in known and known[spec.objective].multi_label and not spec.data.multi_label:
        why = "only jobs with multi_label=true have it."
    elif spec.objective in known:
        why = f"{_why_absent(spec, spec.objective.partition(':')[0])}."
    else:
        near = did_you_mean(spec.objective, printed)
        why = f"no metric has this name{near}. {_NAMING}"
    raise UserError(
        f"{OBJECTIVE}={shown(spec.objective)} is never printed, so the tuner would find no objective: {why} This job"
        f" prints {', '.join(printed) or 'no metrics'}."
    )


def _evaluated_parts(spec: JobSpec, purposes: Collection[str]) -> set[str]:
    evaluates = spec.strategy.name == "evaluate"
    parts = {"validation", "test"} & set(purposes)
    if not evaluates and "train" in purposes:
        parts |= {"train"} | ({"validation"} if spec.data.validation_fraction > 0 else set())
    return parts or {"train"}


def _why_absent(spec: JobSpec, part: str) -> str:
    if part == "test":
        return "there is no channel 'test'"
    if part == "train":
        return "strategy='evaluate' trains nothing, and has other records to evaluate"
    if spec.strategy.name == "evaluate":
        return "there is no channel 'validation', and strategy='evaluate' holds nothing out"
    return "nothing is held out: give a channel 'validation', or validation_fraction above 0"
