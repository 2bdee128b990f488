"""How does a front that stays as it is run without its normalisations?

In evaluation mode a batch normalisation multiplies by constants and adds some, which the convolution before it can do
with other weights. What the front gives is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Of the largest value; a normalisation that is left out, or done twice, changes more where it does anything. On a GPU,
# convolutions in float32 round their inputs to TF32.
_ROUNDING = {"cpu": 1e-3, "cuda": 5e-2}

Run = Callable[[nn.Module], Tensor]
"""Gives what a network makes of an example."""
Replace = Callable[[nn.Module, dict[str, nn.Module]], nn.Module]
"""Gives the same network with other modules at some paths."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A convolution and the normalisation of its output."""

    convolution: nn.Conv2d
    normalisation: nn.BatchNorm2d


def folded(network: nn.Module, run: Run, replace: Replace, dtype: torch.dtype | None) -> nn.Module:
    """Fold every batch normalisation that directly follows a convolution into it.

    Args:
        network: in evaluation mode; stays as it is.
        run: on an example, in float32, without gradients. A network that then gives something else for it, because
            the output of a convolution is used elsewhere too, is given back unfolded.
        replace: puts other layers in.
        dtype: to which autocast would turn the weights of convolutions at every pass, `None` without autocast.
    """
    paths = {module: path for path, module in network.named_modules()}
    pairs, expected = _pairs(paths, lambda: run(network))
    convolutions = {paths[pair.convolution]: _folded(pair) for pair in pairs}
    without = replace(network, {**convolutions, **{paths[pair.normalisation]: nn.Identity() for pair in pairs}})
    rounding = _ROUNDING[expected.device.type]
    if not pairs or (run(without) - expected).abs().max() > rounding * expected.abs().max():
        return network
    for convolution in convolutions.values():
        convolution.to(dtype=dtype)
    return without


def _pairs(modules: Iterable[nn.Module], run: Callable[[], Tensor]) -> tuple[list[_Pair], Tensor]:
    """Convolutions and normalisations that are called once each, one on the other's output; and what `run` gives."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        # Held here, so that no other tensor gets the identity of one that is gone.
        calls.append((module, given[0], output))

    # What is derived from these layers may compute something else.
    handles = [module.register_forward_hook(keep) for module in modules if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    called = [module for module, _, _ in calls]
    calls = [call for call in calls if called.count(call[0]) == 1]
    made_by = {id(output): module for module, _, output in calls if isinstance(module, nn.Conv2d)}
    pairs = []
    for module, given, _ in calls:
        convolution = made_by.get(id(given))
        if convolution is not None and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            pairs.append(_Pair(convolution, module))
    return pairs, result


def _folded(pair: _Pair) -> nn.Conv2d:
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
