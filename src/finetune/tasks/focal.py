"""Focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002)."""

from __future__ import annotations

from torch import Tensor

_SMALLEST = 1e-8
"""Smallest 1 - p, since the derivative of its power is infinite at 0 for exponents below 1."""


def focal_losses(log_probabilities: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p) ** gamma * log(p) of logarithms of probabilities."""
    distances = (1 - log_probabilities.exp()).clamp_min(_SMALLEST)
    return -distances.pow(gamma) * log_probabilities
