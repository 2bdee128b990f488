"""Builds the model in a transformers folder, selected by the `model_type` of its configuration."""

from __future__ import annotations

from finetune.models.request import ModelRequest
from finetune.models.transformers.folder import open_model_folder
from finetune.models.transformers.image import ImageBackbone, build_image
from finetune.models.transformers.text import TextBackbone, build_text
from finetune.models.weights.sources import Source


def build_transformers(request: ModelRequest, source: Source) -> TextBackbone | ImageBackbone:
    """Build a transformers classifier for text or images.

    Raises:
        UserError: the model, its weights or its head do not match the request.
    """
    model_folder = open_model_folder(request, source)
    return (
        build_text(request, model_folder)
        if model_folder.family.task == "text-classification"
        else build_image(request, model_folder)
    )
