"""Folds batch normalizations of a frozen prefix into the convolutions before them.

In evaluation mode a batch normalization is a constant scale and shift, which the preceding convolution can apply
through its weights. The output of the prefix is unchanged up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.hooks import RemovableHandle

# Tolerance relative to the largest value; a normalization that is skipped or applied twice causes a larger difference
# unless it has no effect. On a GPU, float32 convolutions round their inputs to TF32.
_ROUNDING = {"cpu": 1e-3, "cuda": 5e-2}

Run = Callable[[nn.Module], Tensor]
"""Returns the output of a module for an example."""
Replace = Callable[[nn.Module, dict[str, nn.Module]], nn.Module]
"""Returns a copy of a module with the submodules at some paths replaced."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A convolution and the batch normalization of its output."""

    convolution: nn.Conv2d
    normalisation: nn.BatchNorm2d


class Calls:
    """Context manager that records the calls of a model's convolutions and batch normalizations."""

    def __init__(self, network: nn.Module) -> None:
        """Store the layers of `network` to record."""
        # Exact types only: subclasses may compute something else.
        self._modules = [module for module in network.modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Calls:
        self._handles = [module.register_forward_hook(self._keep) for module in self._modules]
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop recording."""
        while self._handles:
            self._handles.pop().remove()

    def pairs(self) -> list[Pair]:
        """Return the pairs of layers that were called once each, the normalization on the convolution's output."""
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
        # Keep a reference, so that the `id` of a freed tensor is not reused.
        self._calls.append((module, given[0], output))


@dataclass(frozen=True, slots=True)
class Example:
    """Recorded run of a frozen model on an example.

    Attributes:
        pairs: convolutions and normalizations called during the run.
        result: output.
        run: computes the same output for another model, in float32 and without gradients.
    """

    pairs: Sequence[Pair]
    result: Tensor
    run: Run


def folded(network: nn.Module, example: Example, replace: Replace, dtype: torch.dtype | None) -> nn.Module:
    """Fold every batch normalisation that directly follows a convolution into it.

    Args:
        network: model in evaluation mode; it is not modified.
        example: run on a non-constant input. If folding changes its result, because the output of a convolution is
            also used elsewhere, `network` is returned unfolded.
        replace: replaces submodules.
        dtype: dtype to which autocast would convert the convolution weights in every pass; `None` without autocast.

    Returns:
        The folded copy, or `network` if there is nothing to fold.
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
    # A pair always has running statistics; the check is for the type checker.
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
