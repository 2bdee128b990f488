"""Mixup and CutMix: each record of a batch is mixed with another one, and so are their targets.

Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) averages inputs; CutMix (Yun et al. 2019,
https://arxiv.org/abs/1905.04899) pastes a rectangle. The partner of a record is the previous one of its batch or shard,
which is random, since the order is. All other random numbers are a function of seed, step and shard.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PIXELS = "pixels"
"""Name of the input with images."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixes the records of a batch.

    Attributes:
        mixup: Parameter alpha of the Beta(alpha, alpha) distribution of a record's share in a mixed record; 0 is off.
        cutmix: The same for the share of the image that is kept by CutMix; 0 is off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether records are mixed."""
        return bool(self.mixup or self.cutmix)

    def __call__(
        self, inputs: Mapping[str, Tensor], targets: Tensor, randomness: random.Random
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return mixed inputs and targets; with both kinds of mixing, each batch uses one of them at random.

        Args:
            inputs: Images, uint8 `[records, 3, height, width]`, or floating-point features `[records, ...]`.
            targets: float32 `[records, classes]`.
            randomness: Source of all random numbers.
        """
        if not self.is_active or len(targets) < 2:
            return dict(inputs), targets
        uses_cutmix = self.cutmix > 0 and (not self.mixup or randomness.random() < 0.5)
        alpha = self.cutmix if uses_cutmix else self.mixup
        shares = [randomness.betavariate(alpha, alpha) for _ in range(len(targets))]
        if uses_cutmix:
            pixels, shares = _cut(inputs[PIXELS], shares, randomness)
            mixed = {**inputs, PIXELS: pixels}
        else:
            mixed = {name: _average(tensor, shares) for name, tensor in inputs.items()}
        return mixed, _average(targets, shares)


def mixing_randomness(seed: int, step: int, shard: int = 0) -> random.Random:
    """Return the source of random numbers for mixing a shard of a step."""
    return random.Random(f"mixing/{seed}/{step}/{shard}")  # noqa: S311 - not cryptographic


def _average(tensor: Tensor, shares: list[float]) -> Tensor:
    """Average each row with the previous one, in float32 for integers."""
    values = tensor if tensor.is_floating_point() else tensor.float()
    share = torch.tensor(shares, dtype=values.dtype).view(-1, *[1] * (values.dim() - 1)).to(values.device)
    return values * share + values.roll(1, 0) * (1 - share)


def _cut(pixels: Tensor, shares: list[float], randomness: random.Random) -> tuple[Tensor, list[float]]:
    """Paste a rectangle of the previous image into each image; return the images and the shares of their own pixels.

    A rectangle has the aspect ratio of the image and the area `1 - share` of it, and is clipped at the edges.
    """
    height, width = pixels.shape[-2:]
    mixed, partners, kept = pixels.clone(), pixels.roll(1, 0), []
    for row, share in enumerate(shares):
        half = 0.5 * math.sqrt(1 - share)
        rows = _interval(randomness.randrange(height), int(half * height), height)
        columns = _interval(randomness.randrange(width), int(half * width), width)
        mixed[row, :, rows, columns] = partners[row, :, rows, columns]
        kept.append(1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width))
    return mixed, kept


def _interval(center: int, radius: int, length: int) -> slice:
    return slice(max(0, center - radius), min(length, center + radius))
