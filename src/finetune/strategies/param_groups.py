"""The parameters that ever learn, in named groups of one rate and one weight decay, each parameter exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.models.backbone import Backbone
from finetune.strategies.plan import Plan


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that an optimizer treats alike.

    Attributes:
        name: layer group and kind, such as `layer4/decay`.
        parameters: names in `backbone.module.named_parameters()`.
        rate: peak learning rate.
        weight_decay: 0 for norms and biases.
    """

    name: str
    parameters: tuple[str, ...]
    rate: float
    weight_decay: float


def parameter_groups(backbone: Backbone, plan: Plan, weight_decay: float) -> tuple[ParameterGroup, ...]:
    """Groups for everything that the plan will ever train, so that the optimizer's structure never changes.

    Norms and biases, the parameters of at most one dimension, are not decayed.
    """
    shapes = {name: parameter.dim() for name, parameter in backbone.module.named_parameters()}
    found = []
    for group in backbone.layer_groups():
        if group.name not in plan.rates:
            continue
        decayed = tuple(name for name in group.parameters if shapes[name] > 1)
        plain = tuple(name for name in group.parameters if shapes[name] <= 1)
        rate = plan.rates[group.name]
        found += [
            ParameterGroup(f"{group.name}/{kind}", names, rate, decay)
            for kind, names, decay in (("decay", decayed, weight_decay), ("plain", plain, 0.0))
            if names
        ]
    return tuple(found)
