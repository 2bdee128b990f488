"""Decision thresholds for a target precision or recall, chosen on validation and measured on every part."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from finetune.config.compat.aliases import OBJECTIVE
from finetune.config.hyperparameters import JobSpec, ObserveSpec
from finetune.data.loading.dataset import Subset
from finetune.errors import DataError, UserError
from finetune.evaluation.predict import EvaluationResult
from finetune.evaluation.thresholds import ChosenThresholds, ThresholdTarget, choose_thresholds, reached
from finetune.job.inputs import Inputs
from finetune.models.weights.sources import Source
from finetune.runtime.optional import optional

logger = logging.getLogger(__name__)


def target_of(spec: ObserveSpec) -> ThresholdTarget | None:
    """The target precision or recall, if one is set."""
    if spec.target_precision is None and spec.target_recall is None:
        return None
    return ThresholdTarget(spec.target_precision, spec.target_recall)


def check_target(inputs: Inputs, spec: ObserveSpec) -> None:
    """Refuse a target that thresholds cannot reach.

    Raises:
        UserError: the task has more than two exclusive classes, or there are no validation records.
    """
    target = target_of(spec)
    if target is None:
        return
    name = "target_precision" if target.precision is not None else "target_recall"
    if not inputs.labels.multi_label and len(inputs.labels) != 2:
        raise UserError(
            f"{name} needs two classes or multi_label=true, but there are {len(inputs.labels)} classes of which one"
            f" holds: leave it out."
        )
    if inputs.validation is None:
        raise UserError(
            f"{name} needs validation records: give a channel 'validation', or validation_fraction above 0."
        )


def check_objective_is_defined(spec: JobSpec, inputs: Inputs) -> None:
    """Check that the records of the evaluated part define the objective metric, if they are in files.

    Raises:
        DataError: the metric is undefined for them and would be missing from the log.
    """
    part, _, name = (spec.objective or "").partition(":")
    records = inputs.parts().get(part)
    if records is None or name not in _UNDEFINED:
        return
    if reason := _UNDEFINED[name](records, inputs):
        raise DataError(f"{OBJECTIVE}={spec.objective} is not defined by the {part} records: {reason}.")


def given_thresholds(source: Source, labels: tuple[str, ...]) -> ChosenThresholds | None:
    """Thresholds that an earlier job stored with the model that is evaluated; `None` if it has none."""
    given = source.artifact.get("thresholds")
    if not isinstance(given, list) or len(given) != len(labels) or source.artifact.get("labels") != list(labels):
        return None
    limits = tuple(one for one in given if isinstance(one, float) and 0 < one < 1)
    return ChosenThresholds(limits, ()) if len(limits) == len(labels) else None


def decide_on(
    evaluated: Mapping[str, EvaluationResult], labels: tuple[str, ...], target: ThresholdTarget | None
) -> tuple[ChosenThresholds | None, dict[str, object]]:
    """Choose thresholds on validation, and report the precision and recall they reach as JSON values."""
    if target is None or "validation" not in evaluated:
        return None, {}
    predictions = evaluated["validation"].predictions
    decision = choose_thresholds(predictions.targets, predictions.probabilities, labels, target)
    if decision.missed:
        logger.warning(
            "No threshold reaches %s on validation for %s: 0.5 is taken there. Train longer, or ask for less.",
            target,
            ", ".join(decision.missed[:5]),
        )
    parts: dict[str, object] = {}
    for name, one in evaluated.items():
        with optional(f"What the thresholds reach on {name!r}"):
            parts[name] = reached(one.predictions.targets, one.predictions.probabilities, labels, decision)
    thresholds = dict(zip(labels, decision.thresholds, strict=True))
    return decision, {"target": str(target), "thresholds": thresholds, "missed": list(decision.missed), **parts}


def _one_class_only(records: Subset, inputs: Inputs) -> str:
    labelled = [records.reader.labels(index) for index in records.indices]
    if inputs.labels.multi_label:
        mixed = any(0 < sum(name in one for one in labelled) < len(labelled) for name in inputs.labels.names)
        return "" if mixed else "no class has records with and without it"
    return "" if len(set(labelled)) > 1 else "all are of one class"


def _no_label_at_all(records: Subset, inputs: Inputs) -> str:
    del inputs
    return "" if any(records.reader.labels(index) for index in records.indices) else "none has a label"


_UNDEFINED = {
    "auc": _one_class_only,
    **dict.fromkeys(("macro_f1", "macro_precision", "macro_recall"), _no_label_at_all),
}
"""Functions by metric that return the reason why records do not define it; empty if they do."""
