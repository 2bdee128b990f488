"""Loads the requested model with its weights and its head."""

from __future__ import annotations

import logging

from finetune.models.backbone import Backbone, ImageInput
from finetune.models.heads import describe_assumed_order, is_order_assumed
from finetune.models.registry import builder_for
from finetune.models.request import ModelRequest
from finetune.models.timm.build import build_timm, timm_labels
from finetune.models.torchvision.build import source_labels
from finetune.models.transformers.build import build_transformers
from finetune.models.transformers.class_names import read_head
from finetune.models.transformers.folder import open_model_folder
from finetune.models.weights.locate import locate_source
from finetune.models.weights.sources import Source

__all__ = ["ModelRequest", "Source", "load_backbone", "load_without_logging", "locate_source", "source_classes"]

logger = logging.getLogger(__name__)

_MAX_SHOWN = 8


def source_classes(request: ModelRequest, source: Source) -> tuple[str, ...] | None:
    """Return the class names in the order of the model's outputs, or None if the source does not state them.

    Args:
        request: requested model; its labels are ignored.
        source: origin of the model.

    Raises:
        UserError: the model is not available, or is not for the task.
    """
    if source.labels is not None:
        return source.labels
    builder = builder_for(request, source)
    if builder is build_timm:
        return timm_labels(request, source)
    if builder is build_transformers:
        head = read_head(open_model_folder(request, source))
        return None if head.uncertain else head.labels
    return source_labels(source.name, source)


def load_without_logging(request: ModelRequest, source: Source) -> Backbone:
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
    backbone = load_without_logging(request, source or locate_source(request))
    weights = backbone.weights
    if weights.kept_head and weights.labels is None and is_order_assumed(request):
        logger.warning(
            "The weights do not name their classes, so %s. If this is wrong, set class_names to the classes in"
            " the order of the outputs.",
            describe_assumed_order(request.labels),
        )
    logger.info(
        "Model %s, weights: %s (%d tensors loaded, %d newly initialized, %d unused), %s head",
        backbone.name,
        weights.source,
        len(weights.loaded),
        len(weights.newly_initialized),
        len(weights.unused),
        "pretrained" if weights.kept_head else "new",
    )
    if weights.unused:
        logger.info("Unused tensors of the source: %s", _shorten(weights.unused))
    for warning in weights.warnings:
        logger.warning("%s", warning)
    if weights.initialized_outside_head:
        logger.warning(
            "The weights lack these tensors besides the classifier, which are newly initialized: %s",
            _shorten(weights.initialized_outside_head),
        )
    expects, depth = backbone.expects, request.sixteen_bit_depth
    if isinstance(expects, ImageInput) and depth not in (None, expects.sixteen_bit_depth):
        logger.warning(
            "The 16-bit images use %s bits, but the model was trained on images of %s bits: they are darker, or"
            " rejected.",
            depth,
            expects.sixteen_bit_depth,
        )
    return backbone


def _shorten(names: tuple[str, ...]) -> str:
    rest = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
