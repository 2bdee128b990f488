"""Forgetting: accuracy of the source model's own head on its classes, before and after training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.data.loading.batches import Batches
from finetune.errors import UserError
from finetune.evaluation.predict import EvaluationResult, InferenceContext, PredictedClasses, predict_classes
from finetune.models.backbone import Backbone
from finetune.models.load import ModelRequest, Source, load_without_logging, source_classes
from finetune.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The model before training, so that it can be loaded again.

    Attributes:
        request: the model request, without labels.
        source: source of the weights.
    """

    request: ModelRequest
    source: Source


def forgetting(
    source_model: SourceModel, trained: Backbone, result: EvaluationResult, task: Task, context: InferenceContext
) -> dict[str, object]:
    """Measure the accuracy of the source model's own head on records of its classes; other records are ignored.

    Before: the source model. After: its head on the trained layers, or the further trained head itself if the classes
    are the same.

    Args:
        source_model: the model before training.
        trained: the trained model.
        result: predictions of the trained model.
        task: task of the job.
        context: device, precision and stop request.

    Returns:
        JSON values: `classes` that both have, `records` of them, `before` and `after`, shares from 0 to 1; empty if the
        two have no class in common, records may have several classes, the classes of the source model are unknown, or
        records cannot be read again.
    """
    batches, predictions = result.batches, result.predictions
    head_classes, classes = source_classes(source_model.request, source_model.source), batches.label_map.names
    shared = [name for name in classes if name in (head_classes or ())]
    if head_classes is None or not shared or not task.has_exclusive_classes or not isinstance(batches, Batches):
        return {}
    try:
        backbone = load_without_logging(_request_with_head(source_model.request, head_classes), source_model.source)
    except UserError as error:
        logger.info("Forgetting was not measured: %s", error)
        return {}
    backbone.module.to(context.device)
    before = predict_classes(backbone, batches, context)
    targets, predicted = predictions.targets.astype(np.int64), predictions.probabilities.argmax(axis=1)
    after: PredictedClasses | None = PredictedClasses(targets, predicted)
    outputs = classes
    if not trained.weights.kept_head:
        _copy_layers_below_head(trained, backbone)
        after, outputs = predict_classes(backbone, batches, context), head_classes
    if before is None or after is None:
        return {}
    records, accuracy_before = _accuracy(before, classes, head_classes, shared)
    _, accuracy_after = _accuracy(after, classes, outputs, shared)
    if not records:
        return {}
    logger.info(
        "Forgetting: accuracy of the source model's own head %.1f%% before training, %.1f%% after, on the %d records of"
        " its classes",
        100 * accuracy_before,
        100 * accuracy_after,
        records,
    )
    return {"classes": shared, "records": records, "before": accuracy_before, "after": accuracy_after}


def _request_with_head(request: ModelRequest, labels: tuple[str, ...]) -> ModelRequest:
    spec = request.spec.model_copy(update={"reinitialize_top_layer": "auto"})
    return replace(request, spec=spec, labels=labels, trained=False)


def _copy_layers_below_head(source: Backbone, target: Backbone) -> None:
    """Copy the weights of all layers except the head."""
    head = set(source.layer_groups()[-1].parameters)
    current = target.module.state_dict()
    weights = {
        name: tensor
        for name, tensor in source.module.state_dict().items()
        if name not in head and name in current and current[name].shape == tensor.shape
    }
    target.module.load_state_dict(weights, strict=False)


def _accuracy(
    predicted: PredictedClasses, classes: Sequence[str], outputs: Sequence[str], shared: Sequence[str]
) -> tuple[int, float]:
    """Number of records of the shared classes, and the share of them that is predicted correctly."""
    true_names = np.array(classes)[predicted.targets]
    predicted_names = np.array(outputs)[predicted.classes]
    included = np.isin(true_names, list(shared))
    records = int(included.sum())
    return records, float((true_names == predicted_names)[included].mean()) if records else 0.0
