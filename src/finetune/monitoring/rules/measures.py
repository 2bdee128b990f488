"""A few numbers that stand for a tensor; computed where the tensor is, so that no step waits for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

IsBad = Callable[[Tensor], Tensor]
"""Which values of a tensor are no longer usable."""


def not_finite(values: Tensor) -> Tensor:
    """Where values are infinite, or no numbers."""
    return ~values.isfinite()


def of_gradient(gradient: Tensor, is_bad: IsBad) -> list[Tensor]:
    """Mean size of what is not zero, number of bad values, share of zeros."""
    size = gradient.abs().float()
    zero = size == 0
    # Most rows of an embedding see no record of a batch: the mean is that of what was touched.
    mean = size.sum() / (zero.numel() - zero.sum()).clamp(min=1)
    return [mean, is_bad(size).sum().float(), zero.float().mean()]


def of_weight(before: Tensor, after: Tensor, rtol: float, is_bad: IsBad) -> list[Tensor]:
    """Norm, number of bad values and share of zeros, norm of the change, and its largest excess over `rtol`."""
    change = (after - before).abs()
    return [
        before.norm().float(),
        is_bad(after).sum().float(),
        (after == 0).float().mean(),
        change.norm().float(),
        (change - rtol * after.abs()).max().float(),
    ]


def alike(weights: Tensor, step: int) -> Tensor:
    """1 where all units of a layer begin alike; a last layer may begin with zeros: its classes tell its units apart."""
    if step > 0 or weights.shape[0] < 2:
        return torch.zeros((), device=weights.device)
    flat = weights.flatten(1)
    return ((flat == flat[:1]).all() & (flat != 0).any()).float()
