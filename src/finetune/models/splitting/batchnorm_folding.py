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
_TOLERANCES = {"cpu": 1e-3, "cuda": 5e-2}

RunModule = Callable[[nn.Module], Tensor]
"""Returns the output of a module for an example."""
ReplaceSubmodules = Callable[[nn.Module, dict[str, nn.Module]], nn.Module]
"""Returns a copy of a module with the submodules at some paths replaced."""


@dataclass(frozen=True, slots=True)
class ConvNormPair:
    """A convolution and the batch normalization of its output."""

    convolution: nn.Conv2d
    normalization: nn.BatchNorm2d


class CallRecorder:
    """Context manager that records the calls of a model's convolutions and batch normalizations."""

    def __init__(self, model: nn.Module) -> None:
        """Store the layers of `model` to record."""
        # Exact types only: subclasses may compute something else.
        self._modules = [module for module in model.modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> CallRecorder:
        self._handles = [module.register_forward_hook(self._record) for module in self._modules]
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop recording."""
        while self._handles:
            self._handles.pop().remove()

    def pairs(self) -> list[ConvNormPair]:
        """Return the pairs of layers that were called once each, the normalization on the convolution's output."""
        called_modules = [module for module, _, _ in self._calls]
        calls = [call for call in self._calls if called_modules.count(call[0]) == 1]
        producers = {id(output): module for module, _, output in calls if isinstance(module, nn.Conv2d)}
        pairs = []
        for module, inputs, _ in calls:
            convolution = producers.get(id(inputs))
            if convolution is not None and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                pairs.append(ConvNormPair(convolution, module))
        return pairs

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Keep a reference, so that the `id` of a freed tensor is not reused.
        self._calls.append((module, inputs[0], output))


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """Recorded run of a frozen model on an example.

    Attributes:
        pairs: convolutions and normalizations called during the run.
        output: output.
        run: computes the same output for another model, in float32 and without gradients.
    """

    pairs: Sequence[ConvNormPair]
    output: Tensor
    run: RunModule


def fold_batchnorms(
    model: nn.Module, reference: ReferenceRun, replace: ReplaceSubmodules, dtype: torch.dtype | None
) -> nn.Module:
    """Fold every batch normalization that directly follows a convolution into it.

    Args:
        model: model in evaluation mode; it is not modified.
        reference: run on a non-constant input. If folding changes its result, because the output of a convolution is
            also used elsewhere, `model` is returned unfolded.
        replace: replaces submodules.
        dtype: dtype to which autocast would convert the convolution weights in every pass; `None` without autocast.

    Returns:
        The folded copy, or `model` if there is nothing to fold.
    """
    paths = {module: path for path, module in model.named_modules()}
    convolutions = {paths[pair.convolution]: _fold_pair(pair) for pair in reference.pairs}
    identities = {paths[pair.normalization]: nn.Identity() for pair in reference.pairs}
    folded = replace(model, {**convolutions, **identities})
    tolerance = _TOLERANCES[reference.output.device.type]
    if (
        not convolutions
        or _max_difference(reference.run(folded), reference.output) > tolerance * reference.output.abs().max()
    ):
        return model
    for convolution in convolutions.values():
        convolution.to(dtype=dtype)
    return folded


def _max_difference(output: Tensor, expected: Tensor) -> Tensor:
    return (output - expected).abs().max()


def _fold_pair(pair: ConvNormPair) -> nn.Conv2d:
    convolution, normalization = pair.convolution, pair.normalization
    # A pair always has running statistics; the check is for the type checker.
    mean, variance = (
        statistic.detach()
        for statistic in (normalization.running_mean, normalization.running_var)
        if statistic is not None
    )
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.detach(),
        None if convolution.bias is None else convolution.bias.detach(),
        mean,
        variance,
        normalization.eps,
        normalization.weight,
        normalization.bias,
    )
    folded = nn.Conv2d.__new__(nn.Conv2d)
    folded.__dict__ = {**vars(convolution), "_parameters": {"weight": weight, "bias": bias}}
    return folded.requires_grad_(requires_grad=False)
