"""Summary statistics of tensors, computed on the tensor's device without synchronizing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

IsBad = Callable[[Tensor], Tensor]
"""Function that returns the mask of unusable values of a tensor."""


def not_finite(values: Tensor) -> Tensor:
    """Return the mask of infinite and NaN values."""
    return ~values.isfinite()


def gradient_statistics(gradient: Tensor, is_bad: IsBad) -> list[Tensor]:
    """Return mean magnitude of non-zero values, number of bad values, share of zeros."""
    size = gradient.abs().float()
    zero = size == 0
    # A batch does not touch most rows of an embedding, so average over the non-zero values only.
    mean = size.sum() / (zero.numel() - zero.sum()).clamp(min=1)
    return [mean, is_bad(size).sum().float(), zero.float().mean()]


def weight_statistics(before: Tensor, after: Tensor, rtol: float, is_bad: IsBad) -> list[Tensor]:
    """Return norm, number of bad values, share of zeros, norm of the change, and its maximum excess over `rtol`."""
    change = (after - before).abs()
    return [
        before.norm().float(),
        is_bad(after).sum().float(),
        (after == 0).float().mean(),
        change.norm().float(),
        (change - rtol * after.abs()).max().float(),
    ]


def identical_units(weights: Tensor, step: int) -> Tensor:
    """Return 1 if all units of a layer are identical; a zero-initialized last layer is fine, as classes differ."""
    if step > 0 or weights.shape[0] < 2:
        return torch.zeros((), device=weights.device)
    flat = weights.flatten(1)
    return ((flat == flat[:1]).all() & (flat != 0).any()).float()
