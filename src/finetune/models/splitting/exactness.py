"""Checks that the parts of a split model compute the same logits as the whole model, and divides it accordingly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from finetune.models.backbone import Backbone
from finetune.models.layered import LayeredBackbone
from finetune.models.splitting.split_model import example_pixels
from finetune.models.structure import ModelParts, undivided_layout

# Errors of forward passes whose code between the layers needs more than one activation.
_FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)

Layered = TypeVar("Layered", bound=LayeredBackbone)


def with_exact_groups(backbone: Layered, parts: ModelParts, inputs: Mapping[str, Tensor]) -> Layered | None:
    """Return the model, with its encoder as a single group if it cannot be split between its blocks.

    Args:
        backbone: model in evaluation mode.
        parts: encoder and head of the model.
        inputs: inputs of `splits_exactly`.

    Returns:
        The model; `None` if it cannot be split before its head either.
    """
    if splits_exactly(backbone, inputs):
        return backbone
    undivided = replace(backbone, layout=undivided_layout(backbone.module, parts))
    return undivided if splits_exactly(undivided, inputs) else None


def other_pixels(size: int) -> dict[str, Tensor]:
    """Return images for `splits_exactly`."""
    return {"pixels": example_pixels(size).repeat(2, 1, 1, 1)[:3]}


def splits_exactly(backbone: Backbone, inputs: Mapping[str, Tensor]) -> bool:
    """Return whether the first, a middle and the last split reproduce the logits bit for bit.

    Args:
        backbone: model in evaluation mode.
        inputs: inputs of the model, for another number of records than `EXAMPLE_RECORDS`, and of another length.
    """
    count = len(backbone.layer_groups())
    with torch.no_grad():
        expected = backbone.forward(inputs).logits
        try:
            return all(
                torch.equal(split.suffix(split.prefix(inputs)).logits, expected)
                for split in map(backbone.split, sorted({1, count // 2, count - 1} - {0}))
            )
        except _FORWARD_ERRORS:
            return False
