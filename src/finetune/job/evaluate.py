"""The final evaluation of a job: predictions and metrics of every part, decision thresholds, and forgetting."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from finetune.errors import DivergedError
from finetune.evaluation.forgetting import forgetting
from finetune.evaluation.predict import EvaluationResult, InferenceContext
from finetune.job.data.inputs import target_of
from finetune.job.prepare import PreparedJob
from finetune.models.load import Source
from finetune.monitoring.report.verdict import wilson_interval
from finetune.runtime.optional import optional
from finetune.tasks.task import Task
from finetune.tasks.thresholds import ChosenThresholds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The final evaluation of the exported weights.

    Attributes:
        results: predictions by part.
        metrics: by part, as JSON values.
        failure: set if the predictions are not finite.
    """

    results: Mapping[str, EvaluationResult]
    metrics: Mapping[str, dict[str, object]]
    failure: DivergedError | None = None


def evaluate_parts(job: PreparedJob) -> Evaluation:
    """Evaluate validation and test, or the training records if strategy=evaluate has no other.

    A part that cannot be evaluated causes a warning, unless the model or the request depends on it.

    Raises:
        DataError: a required part cannot be read.
    """
    loaders, evaluates = job.loaders, not job.spec.strategy.trains
    provider = job.input_provider
    parts = {"validation": loaders.validation, "test": loaders.test}
    if evaluates and not any(parts.values()):
        parts = {"train": loaders.train}
    objective = (job.spec.objective or "").partition(":")[0]
    required = {objective} | ({"validation"} if target_of(job.spec.observe) else set())
    if evaluates or job.sharded is not None:
        # The processes of a sharded model cannot go on together after one of them has failed in a forward pass.
        required = set(parts)
    results: dict[str, EvaluationResult] = {}
    metrics: dict[str, dict[str, object]] = {}
    failure: DivergedError | None = None
    for part, batches in parts.items():
        inputs = provider.validation() if part == "validation" else provider.full_model_inputs(batches)
        if batches is None or inputs is None:
            continue
        try:
            with optional(f"The evaluation of {part!r}", required=part in required, reraised=DivergedError):
                predictions = job.predict(inputs)
                if predictions is not None and job.world.is_main:
                    result = EvaluationResult(batches, predictions)
                    metrics[part] = metrics_of(result, job.inputs.task, job.spec.run.top_k)
                    results[part] = result
        except DivergedError as error:
            failure = error
        # The main process alone has all predictions.
        if job.world.any(failure is not None):
            return Evaluation({}, {}, failure)
    return Evaluation(results, metrics)


def metrics_of(result: EvaluationResult, task: Task, top_k: int | None) -> dict[str, object]:
    """All metrics of one part, as JSON values, with the 95 % interval of the accuracy."""
    predictions = result.predictions
    metrics = {"loss": predictions.loss, **task.metrics(predictions.targets, predictions.probabilities, top_k)}
    accuracy = metrics.get("accuracy")
    if isinstance(accuracy, float):
        metrics["accuracy_interval"] = list(wilson_interval(accuracy, len(predictions.targets)))
    return metrics


def decide_thresholds(
    job: PreparedJob, results: Mapping[str, EvaluationResult]
) -> tuple[ChosenThresholds | None, dict[str, object]]:
    """Choose thresholds for the target precision or recall on validation, and measure them on every part.

    Returns:
        The thresholds, `None` for 0.5; and for `metrics.json` what they reach, empty unless they were chosen here.
    """
    task, labels, target = job.inputs.task, job.inputs.labels.names, target_of(job.spec.observe)
    if target is None or "validation" not in results:
        evaluates = not job.spec.strategy.trains
        return stored_thresholds(job.source_model.source, labels) if evaluates else None, {}
    predictions = results["validation"].predictions
    chosen = task.choose_thresholds(predictions.targets, predictions.probabilities, target)
    if chosen.missed:
        logger.warning(
            "No threshold reaches %s on validation for %s: using 0.5. Train longer, or lower the target.",
            target,
            ", ".join(chosen.missed[:5]),
        )
    parts: dict[str, object] = {}
    for part, result in results.items():
        with optional(f"Measuring the thresholds on {part!r}"):
            predictions = result.predictions
            parts[part] = task.metrics_at_thresholds(predictions.targets, predictions.probabilities, chosen)
    thresholds = dict(zip(labels, chosen.thresholds, strict=True))
    return chosen, {"target": str(target), "thresholds": thresholds, "missed": list(chosen.missed), **parts}


def stored_thresholds(source: Source, labels: tuple[str, ...]) -> ChosenThresholds | None:
    """Thresholds that an earlier job stored with the model that is evaluated; `None` if it has none."""
    stored = source.artifact.get("thresholds")
    if not isinstance(stored, list) or len(stored) != len(labels) or source.artifact.get("labels") != list(labels):
        return None
    thresholds = tuple(value for value in stored if isinstance(value, float) and 0 < value < 1)
    return ChosenThresholds(thresholds, ()) if len(thresholds) == len(labels) else None


def measure_forgetting(job: PreparedJob, results: Mapping[str, EvaluationResult]) -> dict[str, object]:
    """Accuracy on the pretrained model's own classes before and after training; empty if it cannot be measured."""
    part = next((name for name in ("test", "validation") if name in results), None)
    if part is None or not job.spec.strategy.uses_pretrained_weights:
        return {}
    settings = InferenceContext(job.numerics.device, job.numerics.context, job.interruption.requested)
    measured = forgetting(job.source_model, job.backbone, results[part], job.inputs.task, settings)
    return {"part": part, **measured} if measured else {}
