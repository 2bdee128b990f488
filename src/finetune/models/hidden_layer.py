"""Hidden layer of a head: lets it pass its inputs through, so that the last layer reads them instead of its outputs.

Pretraining rarely trains the hidden layer for the task at hand, and often not at all. With the identity as its weight,
its outputs are its inputs up to the activation function, in an unchanged architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.models.backbone import Backbone

_SHIFTS = (0.0, 4.0)
"""Biases to try: tanh is monotone as it is; ReLU and GELU are only for positive inputs."""
_RANGE = 3.0
"""Range in which the activation function must be monotone; inputs come from a layer normalization."""
_ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class PassThrough:
    """A hidden layer that can pass its inputs through.

    Attributes:
        layer: the layer, `[width, width]`.
        shift: bias that moves the inputs to where the activation function is monotone.
    """

    layer: nn.Linear
    shift: float

    def apply(self) -> None:
        """Set the weight to the identity and the bias to the shift."""
        with torch.no_grad():
            nn.init.eye_(self.layer.weight)
            self.layer.bias.fill_(self.shift)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply in the block, and restore the weights at its end."""
        before = [value.detach().clone() for value in (self.layer.weight, self.layer.bias)]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                self.layer.weight.copy_(before[0])
                self.layer.bias.copy_(before[1])


def find_pass_through(backbone: Backbone) -> PassThrough | None:
    """Return the hidden layer of the head; `None` if there is none, or several, or it cannot pass inputs through.

    Runs the head on inputs that rise from row to row, whose outputs must rise too, each on its own.
    """
    groups = backbone.layer_groups()
    linears = [layer for module in groups[-1].modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    hidden = [layer for layer in linears if layer is not backbone.classifier]
    if len(groups) < 2 or len(hidden) != 1 or hidden[0].in_features != hidden[0].out_features or hidden[0].bias is None:
        return None
    if hidden[0].out_features != backbone.classifier.in_features:
        return None
    split = backbone.split(len(groups) - 1)
    if split.padding:  # The head reads every token.
        return None
    rows = torch.linspace(-_RANGE, _RANGE, 25, device=hidden[0].weight.device)
    inputs = rows.unsqueeze(1).repeat(1, hidden[0].in_features)
    backbone.module.eval()
    for shift in _SHIFTS:
        candidate = PassThrough(hidden[0], shift)
        with torch.no_grad(), candidate.applied(), classifier_inputs(backbone.classifier):
            outputs = split.suffix({_ACTIVATION: inputs}).logits
        if outputs.shape == inputs.shape and bool((outputs.diff(dim=0) > 0).all()):
            return candidate
    return None


@contextmanager
def classifier_inputs(classifier: nn.Linear) -> Iterator[None]:
    """Let the model return the inputs of its last layer instead of its outputs."""

    def replace_output(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return inputs[0]

    hook = classifier.register_forward_hook(replace_output)
    try:
        yield
    finally:
        hook.remove()
