"""Determines the image preprocessing of pretrained weights, and normalizes pixels on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from finetune.models.backbone import Backbone, ImageInput, Interpolation
from finetune.runtime import precision

_MAX_SMALL_SIZE = 64
"""Maximum image size, in pixels, at which feature maps may be one pixel wide before the last stride."""


def torchvision_input(name: str) -> ImageInput:
    """Return the preprocessing of torchvision's default weights of `name`, without a download."""
    preset = get_model_weights(name).DEFAULT.transforms()
    return ImageInput(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=cast("Interpolation", preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def input_from_artifact(preprocessing: object) -> ImageInput | None:
    """Return the input described by an artifact of this package, or None if the description is incomplete."""
    match preprocessing:
        case {
            "size": int(size),
            "resize": int(resize),
            "interpolation": str(interpolation),
            "mean": [*mean],
            "std": [*std],
            **more,
        } if interpolation in get_args(Interpolation) and size > 0 and resize > 0:
            center, deviation = channel_values(mean), channel_values(std)
            # Absent in artifacts of earlier versions.
            switches = {name: more.get(name, False) for name in ("stretch", "floor_crop")}
            depth = more.get("sixteen_bit_depth")
            if center and deviation and min(deviation) > 0 and all(isinstance(s, bool) for s in switches.values()):
                expects = ImageInput(size, resize, cast("Interpolation", interpolation), center, deviation)
                bits = depth if isinstance(depth, int) and 8 <= depth <= 16 else None
                stretch, floor_crop = bool(switches["stretch"]), bool(switches["floor_crop"])
                return replace(expects, sixteen_bit_depth=bits, stretch=stretch, floor_crop=floor_crop)
    return None


def channel_values(values: object) -> tuple[float, float, float] | None:
    """Return three numbers, one per channel, or None if `values` is anything else."""
    match values:
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
    return None


def with_size(expects: ImageInput, size: int | None) -> ImageInput:
    """Return the input at another image size, with the margin around the crop scaled in proportion."""
    if size is None or size == expects.size:
        return expects
    resize = round(expects.resize * size / expects.size)
    return replace(expects, size=size, resize=max(size, resize) if expects.resize >= expects.size else max(1, resize))


def with_depth(expects: ImageInput, depth: int | None, *, trained: bool) -> ImageInput:
    """Return the input with the data's 16-bit grayscale depth; without training, only if none is set."""
    keeps = depth is None or (expects.sixteen_bit_depth is not None and not trained)
    return expects if keeps else replace(expects, sixteen_bit_depth=depth)


def has_padding_only_columns(backbone: Backbone) -> bool:
    """Return whether images are so small that some kernel columns see only padding; see `runtime.precision`."""
    expects = backbone.expects
    if not isinstance(expects, ImageInput) or expects.size > _MAX_SMALL_SIZE:
        return False
    pixels = torch.zeros(2, 3, expects.size, expects.size, dtype=torch.uint8)
    return precision.has_padding_only_columns(backbone.module, lambda: backbone.forward({"pixels": pixels}))


class Normalizer:
    """Normalizes pixels on their device, as in the training of the model. Not part of the model's state dict."""

    def __init__(self, expects: ImageInput) -> None:
        self._pixel = torch.tensor([expects.mean, expects.std], dtype=torch.float32)
        self._row = self._pixel

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalize `pixels` in 0..255 to float32 `[batch, 3, size, size]`, channels last for fast convolutions."""
        pixels = inputs["pixels"].permute(0, 2, 3, 1).contiguous()
        # Normalize whole rows of pixels: broadcasting over three channels is at least five times slower on a CPU.
        rows, statistics = pixels.flatten(2), self._row
        if statistics.shape[1] != rows.shape[2] or statistics.device != rows.device:
            statistics = self._row = self._pixel.repeat(1, pixels.shape[2]).to(rows.device)
        mean, std = statistics
        return rows.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std).view(pixels.shape).permute(0, 3, 1, 2)
