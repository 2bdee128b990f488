"""Applies a phase to a model; a frozen layer is deterministic, so that its output depends only on its input."""

from __future__ import annotations

from collections.abc import Collection

from finetune.models.backbone import Backbone


def apply_trainable(backbone: Backbone, trainable: Collection[str]) -> None:
    """Make the named groups trainable and freeze the others: no gradient, fixed normalization statistics, no dropout.

    Modules outside all groups follow their submodules: a container is in training mode if any of its groups is, and a
    leaf without parameters (a dropout before the classifier) follows the head.

    Args:
        backbone: model to modify; only train modes, `requires_grad` and gradients change.
        trainable: names of the trainable layer groups.
    """
    groups = backbone.layer_groups()
    trainable_ids = {
        id(module) for group in groups if group.name in trainable for root in group.modules for module in root.modules()
    }
    grouped_ids = {id(module) for group in groups for root in group.modules for module in root.modules()}
    head_trainable = groups[-1].name in trainable
    for module in backbone.module.modules():
        if id(module) in grouped_ids:
            module.training = id(module) in trainable_ids
        elif next(module.children(), None) is None:
            module.training = head_trainable
        else:
            module.training = any(id(child) in trainable_ids for child in module.modules())
    parameters = dict(backbone.module.named_parameters())
    for group in groups:
        for name in group.parameters:
            parameters[name].requires_grad_(group.name in trainable)
            if group.name not in trainable:
                parameters[name].grad = None
