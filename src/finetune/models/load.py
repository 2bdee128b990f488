"""Loads the requested model with its weights and its head."""

from __future__ import annotations

import logging

from finetune.models.backbone import Backbone
from finetune.models.heads import assumed_order, order_is_assumed
from finetune.models.registry import builder_for
from finetune.models.request import ModelRequest
from finetune.models.torchvision.build import labels_of_name
from finetune.models.transformers.build import build_transformers
from finetune.models.transformers.class_names import head_of
from finetune.models.transformers.folder import open_folder
from finetune.models.weights.locate import locate
from finetune.models.weights.sources import Source

__all__ = ["ModelRequest", "Source", "classes_of", "load_backbone", "load_quietly", "locate"]

logger = logging.getLogger(__name__)

_SHOWN = 8


def classes_of(request: ModelRequest, source: Source) -> tuple[str, ...] | None:
    """Return the class names in the order of the model's outputs, or None if the source does not state them.

    Args:
        request: requested model; its labels are ignored.
        source: origin of the model.

    Raises:
        UserError: the model is not available, or is not for the task.
    """
    if source.labels is not None:
        return source.labels
    if builder_for(request, source) is build_transformers:
        head = head_of(open_folder(request, source))
        return None if head.uncertain else head.labels
    return labels_of_name(source.name, source)


def load_quietly(request: ModelRequest, source: Source) -> Backbone:
    """Same as `load_backbone`, without logging, for a model that the job has already reported."""
    backbone = builder_for(request, source)(request, source)
    backbone.module.eval()
    return backbone


def load_backbone(request: ModelRequest, source: Source | None = None) -> Backbone:
    """Build the model, load its weights and set its head.

    Args:
        request: requested model.
        source: origin of the model; `None` to locate it first.

    Returns:
        The model in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: name, weights or head do not match the request.
        PlatformError: there is not enough disk space to unpack the model channel.
    """
    backbone = load_quietly(request, source or locate(request))
    weights = backbone.weights
    if weights.kept_head and weights.labels is None and order_is_assumed(request):
        logger.warning(
            "The weights do not name their classes: %s. If that is not their order, set class_names to the classes in"
            " the order of the outputs.",
            assumed_order(request.labels),
        )
    logger.info(
        "Network %s, weights: %s (%d tensors loaded, %d new, %d unused), %s head",
        backbone.name,
        weights.source,
        len(weights.loaded),
        len(weights.newly_initialized),
        len(weights.unused),
        "the source's own" if weights.kept_head else "a new",
    )
    if weights.unused:
        logger.info("Tensors of the source that the network has no place for: %s", _first(weights.unused))
    for warning in weights.warnings:
        logger.warning("%s", warning)
    if weights.initialized:
        logger.warning(
            "Newly initialized besides the classifier, because the weights lack them: %s", _first(weights.initialized)
        )
    return backbone


def _first(names: tuple[str, ...]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
