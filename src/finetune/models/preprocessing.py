"""Which pictures belong to which weights, and how their pixels become the numbers that enter a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from finetune.models.backbone import ImageInput, Interpolation


def torchvision_input(name: str) -> ImageInput:
    """The pictures that torchvision's default weights of `name` were trained on; nothing is downloaded."""
    preset = get_model_weights(name).DEFAULT.transforms()
    return ImageInput(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=cast("Interpolation", preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def earlier_input(preprocessing: object) -> ImageInput | None:
    """The input that an artifact of ours describes, or None where the description is not whole."""
    match preprocessing:
        case {
            "size": int(size),
            "resize": int(resize),
            "interpolation": str(interpolation),
            "mean": [*mean],
            "std": [*std],
            **more,
        } if interpolation in get_args(Interpolation) and size > 0 and resize > 0:
            center, deviation = triple(mean), triple(std)
            # Artifacts of earlier versions have none of these.
            switches = {name: more.get(name, False) for name in ("stretch", "floor_crop")}
            depth = more.get("sixteen_bit_depth")
            if center and deviation and min(deviation) > 0 and all(isinstance(s, bool) for s in switches.values()):
                earlier = ImageInput(size, resize, cast("Interpolation", interpolation), center, deviation)
                known = depth if isinstance(depth, int) and 8 <= depth <= 16 else None
                stretch, floor_crop = bool(switches["stretch"]), bool(switches["floor_crop"])
                return replace(earlier, sixteen_bit_depth=known, stretch=stretch, floor_crop=floor_crop)
    return None


def triple(values: object) -> tuple[float, float, float] | None:
    """Three numbers, one per channel, or None where `values` is something else."""
    match values:
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
    return None


def with_size(expects: ImageInput, size: int | None) -> ImageInput:
    """The same pictures at another size, with the margin around the crop in the same proportion."""
    if size is None or size == expects.size:
        return expects
    resize = round(expects.resize * size / expects.size)
    return replace(expects, size=size, resize=max(size, resize) if expects.resize >= expects.size else max(1, resize))


def with_depth(expects: ImageInput, depth: int | None, *, trained: bool) -> ImageInput:
    """The same images, with the depth of 16-bit grey that the data has; without training, only where none is known."""
    keeps = depth is None or (expects.sixteen_bit_depth is not None and not trained)
    return expects if keeps else replace(expects, sixteen_bit_depth=depth)


class Normaliser:
    """Turns pixels into what a network was trained on, on the device where they are. Not part of its state."""

    def __init__(self, expects: ImageInput) -> None:
        self._pixel = torch.tensor([expects.mean, expects.std], dtype=torch.float32)
        self._row = self._pixel

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give float32 `[batch, 3, size, size]` for `pixels` uint8, channels last, as convolutions are fastest."""
        pixels = inputs["pixels"].permute(0, 2, 3, 1).contiguous()
        # A whole row of pixels at once: three channels at a time take a CPU five times as long, and more.
        rows, known = pixels.flatten(2), self._row
        if known.shape[1] != rows.shape[2] or known.device != rows.device:
            known = self._row = self._pixel.repeat(1, pixels.shape[2]).to(rows.device)
        mean, std = known
        return rows.to(torch.float32).div_(255).sub_(mean).div_(std).view(pixels.shape).permute(0, 3, 1, 2)
