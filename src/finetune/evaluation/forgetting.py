"""Forgetting: accuracy of the given model's own head on its classes, before and after training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.data.loading.batches import Batches
from finetune.errors import UserError
from finetune.evaluation.predict import EvaluationResult, InferenceContext, PredictedClasses, predict_classes
from finetune.models.backbone import Backbone
from finetune.models.load import ModelRequest, Source, classes_of, load_quietly
from finetune.runtime.precision import Numerics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The pretrained model as it was given, so that it can be loaded again.

    Attributes:
        request: the model request, without labels.
        source: source of the weights.
    """

    request: ModelRequest
    source: Source


def forgetting(
    given: SourceModel, adapted: Backbone, one: EvaluationResult, how: InferenceContext, numerics: Numerics
) -> dict[str, object]:
    """Measure the accuracy of the given model's own head on records of its classes; other records are ignored.

    Before: the model as it was given. After: its head on the adapted layers, or the further trained head itself if the
    classes are the same.

    Args:
        given: the given model.
        adapted: the trained model.
        one: predictions of the trained model.
        how: device and context of a pass.
        numerics: device and precision.

    Returns:
        JSON values: `classes` that both have, `records` of them, `before` and `after`, shares from 0 to 1; empty if the
        two have no class in common, the classes of the given head are unknown, or records cannot be read again.
    """
    theirs, names = classes_of(given.request, given.source), one.batches.label_map.names
    shared = [name for name in names if name in (theirs or ())]
    single = one.predictions.targets.ndim == 1
    if theirs is None or not shared or not single or not isinstance(one.batches, Batches):
        return {}
    try:
        old = load_quietly(_asking_for_its_head(given.request, theirs), given.source)
    except UserError as error:
        logger.info("What was forgotten is not known: %s", error)
        return {}
    old.module.to(numerics.device)
    before = predict_classes(old, one.batches, how)
    targets, own = one.predictions.targets.astype(np.int64), one.predictions.probabilities.argmax(axis=1)
    after: PredictedClasses | None = PredictedClasses(targets, own)
    outputs = names
    if not adapted.weights.kept_head:
        _take_over(old, adapted)
        after, outputs = predict_classes(old, one.batches, how), theirs
    if before is None or after is None:
        return {}
    records, share_before = _accuracy(before, names, theirs, shared)
    _, share_after = _accuracy(after, names, outputs, shared)
    if not records:
        return {}
    logger.info(
        "The given network's own head: %.1f%% of %d records of its classes right before training, %.1f%% afterwards",
        100 * share_before,
        records,
        100 * share_after,
    )
    return {"classes": shared, "records": records, "before": share_before, "after": share_after}


def _asking_for_its_head(request: ModelRequest, labels: tuple[str, ...]) -> ModelRequest:
    spec = request.spec.model_copy(update={"reinitialize_top_layer": "auto"})
    return replace(request, spec=spec, labels=labels, trained=False)


def _take_over(old: Backbone, adapted: Backbone) -> None:
    """Copy the adapted layers except the head into the given model."""
    head = set(adapted.layer_groups()[-1].parameters)
    own = old.module.state_dict()
    learned = {
        name: tensor
        for name, tensor in adapted.module.state_dict().items()
        if name not in head and name in own and own[name].shape == tensor.shape
    }
    old.module.load_state_dict(learned, strict=False)


def _accuracy(
    predicted: PredictedClasses, names: Sequence[str], outputs: Sequence[str], shared: Sequence[str]
) -> tuple[int, float]:
    """Number of records of the shared classes, and the share of them that is predicted correctly."""
    truth = np.array(names)[predicted.targets]
    said = np.array(outputs)[predicted.classes]
    known = np.isin(truth, list(shared))
    records = int(known.sum())
    return records, float((truth == said)[known].mean()) if records else 0.0
