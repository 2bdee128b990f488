"""Checks that the parts of a split model compute the same logits as the whole model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from finetune.models.backbone import Backbone

# Errors of forward passes whose code between the layers needs more than one activation.
_FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


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
