"""Random image augmentation.

All random numbers are drawn from the given `random.Random`, and every operation is bit-identical for any number of
threads: means are computed from integers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixel_ops

from finetune.data.transforms.image import ImageGeometry
from finetune.data.transforms.trivial_augment import trivial_augment

_AREA = (0.35, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ERASED_AREA = (0.02, 0.2)
_ERASED_RATIO = (0.3, 3.3)
_ERASING_PROBABILITY = 0.5
_BLUR_SIGMA = (0.1, 2.0)
"""Standard deviations of the blur in pixels of an image of 224 pixels, as in SimCLR (Chen et al. 2020)."""


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """Options of the augmentation of images.

    Attributes:
        vertical_flip: whether half of the images are also flipped vertically.
        blur: probability of a Gaussian blur.
        strength: factor of the magnitudes of color and geometric operations, which are limited to their ranges.
    """

    vertical_flip: bool = False
    blur: float = 0.0
    strength: float = 1.0


def downscale_for_augmentation(pixels: Tensor, geometry: ImageGeometry) -> Tensor:
    """Downscale a large image as far as augmentation allows, identically in every epoch: uint8 `[3, height, width]`.

    The smallest crop taken by `augment` then still has as many pixels as the model input. Smaller images are returned
    unchanged. Uses bicubic interpolation, because resizing twice loses sharpness: 5 % with bicubic, 19 % with bilinear
    (docs/decisions/cached-images.md).
    """
    side = augmentation_source_side(geometry)
    if min(pixels.shape[-2:]) <= side:
        return pixels
    resized: Tensor = pixel_ops.resize(pixels, [side], InterpolationMode.BICUBIC, antialias=True)
    return resized


def augmentation_source_bytes(geometry: ImageGeometry) -> int:
    """Return the size in bytes of a large image with the usual aspect ratio before augmentation."""
    side = augmentation_source_side(geometry)
    return 3 * side * round(side * 4 / 3)


def augmentation_source_side(geometry: ImageGeometry) -> int:
    """Return the maximum length of the shorter side of an image before augmentation."""
    return math.ceil(geometry.size / math.sqrt(_AREA[0]))


def augment(
    pixels: Tensor,
    geometry: ImageGeometry,
    strength: Literal["basic", "strong", "trivial"],
    rng: random.Random,
    options: AugmentationOptions = AugmentationOptions(),  # immutable
) -> Tensor:
    """Augment an image, uint8 `[3, height, width]` to uint8 `[3, size, size]`: a pure function of its arguments.

    Args:
        pixels: output of `downscale_for_augmentation`.
        geometry: output size and interpolation.
        strength: `basic` applies a random resized crop (35 to 100 % of the area, aspect ratio 3:4 to 4:3) and a
            horizontal flip with probability 0.5; `strong` also applies one or two color or geometric operations, and
            erases a rectangle with probability 0.5; `trivial` also applies one operation of TrivialAugment.
        rng: source of all random numbers.
        options: further operations, and the magnitude of the others.
    """
    top, left, height, width = _random_crop(pixels.shape[-2], pixels.shape[-1], rng)
    square = [geometry.size, geometry.size]
    result: Tensor = pixel_ops.resized_crop(
        pixels, top, left, height, width, square, InterpolationMode(geometry.interpolation), antialias=True
    )
    if rng.random() < 0.5:
        result = result.flip(-1)
    if options.vertical_flip and rng.random() < 0.5:
        result = result.flip(-2)
    if strength == "strong":
        for operation in rng.sample(_OPERATIONS, rng.randint(1, 2)):
            result = operation(result, max(-1.0, min(1.0, options.strength * rng.uniform(-1, 1))))
        if rng.random() < _ERASING_PROBABILITY:
            result = _erase(result, rng)
    elif strength == "trivial":
        result = trivial_augment(result, options.strength, rng)
    if options.blur and rng.random() < options.blur:
        result = _blur(result, rng.uniform(*_BLUR_SIGMA) * geometry.size / 224)
    return result


def _blur(pixels: Tensor, sigma: float) -> Tensor:
    # The window of three standard deviations, which must be smaller than twice the reflected image.
    radius = min(math.ceil(3 * sigma), pixels.shape[-1] - 1)
    blurred: Tensor = pixel_ops.gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma] * 2)
    return blurred


def _random_crop(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop; after ten draws that do not fit, use a large center crop."""
    for _ in range(10):
        area = height * width * rng.uniform(*_AREA)
        ratio = _random_ratio(_RATIO, rng)
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = rng.randint(0, height - crop_height)
            return top, rng.randint(0, width - crop_width), crop_height, crop_width
    crop_height = min(height, max(1, round(width / _RATIO[0])))
    crop_width = min(width, max(1, round(height * _RATIO[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _random_ratio(bounds: tuple[float, float], rng: random.Random) -> float:
    """Draw width / height, log-uniformly, so that a ratio is as likely as its inverse."""
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _erase(pixels: Tensor, rng: random.Random) -> Tensor:
    size = pixels.shape[-1]
    area = size * size * rng.uniform(*_ERASED_AREA)
    ratio = _random_ratio(_ERASED_RATIO, rng)
    height, width = min(size, round(math.sqrt(area / ratio))), min(size, round(math.sqrt(area * ratio)))
    top, left = rng.randint(0, size - height), rng.randint(0, size - width)
    erased = pixels.clone()
    erased[:, top : top + height, left : left + width] = torch.tensor(_mean_color(pixels), dtype=torch.uint8)[
        :, None, None
    ]
    return erased


def _mean_color(pixels: Tensor) -> list[int]:
    count = pixels.shape[-1] * pixels.shape[-2]
    return [total // count for total in pixels.sum((-2, -1), dtype=torch.int64).tolist()]


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    mean = sum(_mean_color(pixels)) / 3
    return ((pixels.float() - mean) * factor + mean).round().clamp(0, 255).to(torch.uint8)


def _affine(
    pixels: Tensor, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), shear: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Rotate (degrees), translate (fraction of the side) and shear (degrees); fill with the mean color."""
    transformed: Tensor = pixel_ops.affine(
        pixels,
        angle=angle,
        translate=[shift[0] * pixels.shape[-1], shift[1] * pixels.shape[-2]],
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        fill=[float(value) for value in _mean_color(pixels)],
    )
    return transformed


_OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda pixels, magnitude: pixel_ops.adjust_brightness(pixels, 1 + 0.6 * magnitude),
    lambda pixels, magnitude: pixel_ops.adjust_saturation(pixels, 1 + 0.9 * magnitude),
    lambda pixels, magnitude: pixel_ops.adjust_sharpness(pixels, 1 + 0.9 * magnitude),
    lambda pixels, magnitude: pixel_ops.adjust_hue(pixels, 0.08 * magnitude),
    lambda pixels, magnitude: pixel_ops.posterize(pixels, 7 - round(4 * abs(magnitude))),
    lambda pixels, magnitude: pixel_ops.solarize(pixels, 255 - 155 * abs(magnitude)),
    lambda pixels, _: pixel_ops.autocontrast(pixels),
    lambda pixels, _: pixel_ops.equalize(pixels),
    lambda pixels, magnitude: _contrast(pixels, 1 + 0.6 * magnitude),
    lambda pixels, magnitude: _affine(pixels, angle=30 * magnitude),
    lambda pixels, magnitude: _affine(pixels, shear=(17 * magnitude, 0.0)),
    lambda pixels, magnitude: _affine(pixels, shear=(0.0, 17 * magnitude)),
    lambda pixels, magnitude: _affine(pixels, shift=(0.25 * magnitude, 0.0)),
    lambda pixels, magnitude: _affine(pixels, shift=(0.0, 0.25 * magnitude)),
)
"""Each maps uint8 `[3, height, width]` and a magnitude in [-1, 1] to a tensor of the same shape."""
