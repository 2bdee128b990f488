"""Which network does the job adapt? The one that was asked for, with its weights and its head."""

from __future__ import annotations

import logging

from finetune.models.backbone import Backbone
from finetune.models.catalogue import builder_for
from finetune.models.request import ModelRequest
from finetune.models.weights import locate

__all__ = ["ModelRequest", "load_backbone"]

logger = logging.getLogger(__name__)


def load_backbone(request: ModelRequest) -> Backbone:
    """Find the weights, build the network and give it its head.

    Returns:
        the network in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: name, weights or head cannot be as requested.
        PlatformError: there is no room to unpack the model channel.
    """
    source = locate(request)
    backbone = builder_for(request, source)(request, source)
    backbone.module.eval()
    weights = backbone.weights
    logger.info(
        "Network %s, weights: %s (%d tensors loaded, %d new, %d unused), %s head",
        backbone.name,
        weights.source,
        len(weights.loaded),
        len(weights.fresh),
        len(weights.unused),
        "the source's own" if weights.kept_head else "a new",
    )
    return backbone
