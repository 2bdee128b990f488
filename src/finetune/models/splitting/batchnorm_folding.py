"""How does a front that stays as it is run without its normalisations?

In evaluation mode a batch normalisation multiplies by constants and adds some, which the convolution before it can do
with other weights. What the front gives is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.hooks import RemovableHandle

# Of the largest value; a normalisation that is left out, or done twice, changes more where it does anything. On a GPU,
# convolutions in float32 round their inputs to TF32.
_ROUNDING = {"cpu": 1e-3, "cuda": 5e-2}

Run = Callable[[nn.Module], Tensor]
"""Gives what a network makes of an example."""
Replace = Callable[[nn.Module, dict[str, nn.Module]], nn.Module]
"""Gives the same network with other modules at some paths."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A convolution and the normalisation of its output."""

    convolution: nn.Conv2d
    normalisation: nn.BatchNorm2d


class Calls:
    """Watches, while it is entered, which convolutions and normalisations of a network are called on what."""

    def __init__(self, network: nn.Module) -> None:
        """Take a network that is about to run."""
        # What is derived from these layers may compute something else.
        self._modules = [module for module in network.modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Calls:
        self._handles = [module.register_forward_hook(self._keep) for module in self._modules]
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """What is called from now on does not count."""
        while self._handles:
            self._handles.pop().remove()

    def pairs(self) -> list[Pair]:
        """Convolutions and normalisations that were called once each, one on the other's output."""
        called = [module for module, _, _ in self._calls]
        calls = [call for call in self._calls if called.count(call[0]) == 1]
        made_by = {id(output): module for module, _, output in calls if isinstance(module, nn.Conv2d)}
        pairs = []
        for module, given, _ in calls:
            convolution = made_by.get(id(given))
            if convolution is not None and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                pairs.append(Pair(convolution, module))
        return pairs

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        # Held here, so that no other tensor gets the identity of one that is gone.
        self._calls.append((module, given[0], output))


@dataclass(frozen=True, slots=True)
class Example:
    """What a network that stays as it is did with an example.

    Attributes:
        pairs: found while it ran.
        result: what it gave.
        run: gives the same for another network; in float32, without gradients.
    """

    pairs: Sequence[Pair]
    result: Tensor
    run: Run


def folded(network: nn.Module, example: Example, replace: Replace, dtype: torch.dtype | None) -> nn.Module:
    """Fold every batch normalisation that directly follows a convolution into it.

    Args:
        network: in evaluation mode; stays as it is.
        example: not a blank one. A network that then gives something else for it, because the output of a convolution
            is used elsewhere too, is given back unfolded.
        replace: puts other layers in.
        dtype: to which autocast would turn the weights of convolutions at every pass, `None` without autocast.
    """
    paths = {module: path for path, module in network.named_modules()}
    convolutions = {paths[pair.convolution]: _folded(pair) for pair in example.pairs}
    identities = {paths[pair.normalisation]: nn.Identity() for pair in example.pairs}
    without = replace(network, {**convolutions, **identities})
    rounding = _ROUNDING[example.result.device.type]
    if not convolutions or _distance(example.run(without), example.result) > rounding * example.result.abs().max():
        return network
    for convolution in convolutions.values():
        convolution.to(dtype=dtype)
    return without


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().max()


def _folded(pair: Pair) -> nn.Conv2d:
    convolution, normalisation = pair.convolution, pair.normalisation
    # Without running statistics it would be no pair.
    mean, variance = (
        one.detach() for one in (normalisation.running_mean, normalisation.running_var) if one is not None
    )
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.detach(),
        None if convolution.bias is None else convolution.bias.detach(),
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
    copied = nn.Conv2d.__new__(nn.Conv2d)
    copied.__dict__ = {**vars(convolution), "_parameters": {"weight": weight, "bias": bias}}
    return copied.requires_grad_(requires_grad=False)
