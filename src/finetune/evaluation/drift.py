"""Drift of each layer group: relative change of its weights in training."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from finetune.models.backbone import Backbone


class InitialWeights:
    """CPU copy of the initial weights of the trainable groups."""

    def __init__(self, backbone: Backbone, trainable: Collection[str]) -> None:
        parameters = dict(backbone.module.named_parameters())
        self._groups: Mapping[str, Mapping[str, Tensor]] = {
            group.name: {name: parameters[name].detach().cpu().clone() for name in group.parameters}
            for group in backbone.layer_groups()
            if group.name in trainable
        }

    def drift(self, backbone: Backbone) -> dict[str, float]:
        """Relative L2 distance of each layer group from its initial weights."""
        parameters = dict(backbone.module.named_parameters())
        return {
            group: _norm([parameters[name].detach().cpu() - initial for name, initial in tensors.items()])
            / max(_norm(list(tensors.values())), 1e-12)
            for group, tensors in self._groups.items()
            if tensors
        }


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())
