"""TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158) with the wide ranges.

One operation per image, drawn uniformly, with one of 31 magnitudes. The operations are those of torchvision's
`TrivialAugmentWide`, which draws from the global generator; translations are relative to an image of 224 pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixel_ops

_BINS = 31
_TRANSLATION = 32 / 224
"""Largest translation as a fraction of the side."""
Operation: TypeAlias = Callable[[Tensor, float], Tensor]
"""Maps uint8 `[3, height, width]` and a magnitude in [0, 1], or in [-1, 1] if it is signed, to the same shape."""


def trivial_augment(pixels: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Apply one random operation to an image, uint8 `[3, height, width]`.

    Args:
        pixels: the image.
        strength: factor of the magnitude; 1 for the ranges of the paper.
        rng: source of all random numbers.
    """
    name = rng.choice(list(OPERATIONS))
    magnitude = min(1.0, strength * rng.randrange(_BINS) / (_BINS - 1))
    if name in SIGNED and rng.random() < 0.5:
        magnitude = -magnitude
    return OPERATIONS[name](pixels, magnitude)


def _shear(pixels: Tensor, x: float, y: float) -> Tensor:
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    sheared: Tensor = pixel_ops.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])
    return sheared


def _translate(pixels: Tensor, x: float, y: float) -> Tensor:
    shift = [int(x * pixels.shape[-1]), int(y * pixels.shape[-2])]
    translated: Tensor = pixel_ops.affine(pixels, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])
    return translated


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blend with the mean gray value, computed from integers so that it is the same for any number of threads."""
    gray = pixel_ops.rgb_to_grayscale(pixels).sum(dtype=torch.int64)
    mean = int(gray) / (pixels.shape[-1] * pixels.shape[-2])
    return (pixels.float() * factor + mean * (1 - factor)).clamp(0, 255).to(torch.uint8)


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda pixels, _: pixels,
    "ShearX": lambda pixels, magnitude: _shear(pixels, 0.99 * magnitude, 0.0),
    "ShearY": lambda pixels, magnitude: _shear(pixels, 0.0, 0.99 * magnitude),
    "TranslateX": lambda pixels, magnitude: _translate(pixels, _TRANSLATION * magnitude, 0.0),
    "TranslateY": lambda pixels, magnitude: _translate(pixels, 0.0, _TRANSLATION * magnitude),
    "Rotate": lambda pixels, magnitude: pixel_ops.rotate(pixels, angle=135.0 * magnitude),
    "Brightness": lambda pixels, magnitude: pixel_ops.adjust_brightness(pixels, 1 + 0.99 * magnitude),
    "Color": lambda pixels, magnitude: pixel_ops.adjust_saturation(pixels, 1 + 0.99 * magnitude),
    "Contrast": lambda pixels, magnitude: _contrast(pixels, 1 + 0.99 * magnitude),
    "Sharpness": lambda pixels, magnitude: pixel_ops.adjust_sharpness(pixels, 1 + 0.99 * magnitude),
    "Posterize": lambda pixels, magnitude: pixel_ops.posterize(pixels, 8 - round(6 * magnitude)),
    "Solarize": lambda pixels, magnitude: pixel_ops.solarize(pixels, 255 * (1 - magnitude)),
    "AutoContrast": lambda pixels, _: pixel_ops.autocontrast(pixels),
    "Equalize": lambda pixels, _: pixel_ops.equalize(pixels),
}
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
