"""Groups the trainable parameters by learning rate and weight decay for the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.models.backbone import Backbone
from finetune.strategies.plan import Plan


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with the same optimizer settings.

    Attributes:
        name: layer group and kind, such as `layer4/decay`.
        parameters: names in `backbone.module.named_parameters()`.
        learning_rate: peak learning rate.
        weight_decay: weight decay; 0 for normalization parameters and biases.
    """

    name: str
    parameters: tuple[str, ...]
    learning_rate: float
    weight_decay: float


def parameter_groups(backbone: Backbone, plan: Plan, weight_decay: float) -> tuple[ParameterGroup, ...]:
    """Create groups for all parameters trained in any phase, so that the optimizer's structure never changes.

    Each parameter is in exactly one group. Weight decay is not applied to normalization parameters and biases, which
    are the parameters with at most one dimension.
    """
    shapes = {name: parameter.dim() for name, parameter in backbone.module.named_parameters()}
    param_groups = []
    for group in backbone.layer_groups():
        if group.name not in plan.learning_rates:
            continue
        decayed = tuple(name for name in group.parameters if shapes[name] > 1)
        plain = tuple(name for name in group.parameters if shapes[name] <= 1)
        learning_rate = plan.learning_rates[group.name]
        param_groups += [
            ParameterGroup(f"{group.name}/{kind}", names, learning_rate, decay)
            for kind, names, decay in (("decay", decayed, weight_decay), ("plain", plain, 0.0))
            if names
        ]
    return tuple(param_groups)
