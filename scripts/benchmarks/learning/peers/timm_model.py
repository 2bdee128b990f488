"""A timm model from a folder, and its preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def load_timm(folder: str, num_classes: int) -> torch.nn.Module:
    """The model with its pretrained weights, and a new classifier unless `num_classes` is 0."""
    import timm

    overlay = {"file": str(Path(folder) / "model.safetensors"), "hf_hub_id": None}
    name = Path(folder).name
    model: torch.nn.Module = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes
    )
    return model


def eval_transform(folder: str, image_size: int) -> Callable[[Any], torch.Tensor]:
    """The preprocessing of the pretrained weights at another size."""
    from timm import get_pretrained_cfg
    from timm.data.transforms_factory import create_transform

    given: Any = get_pretrained_cfg(Path(folder).name)
    transform: Callable[[Any], torch.Tensor] = create_transform(
        (3, image_size, image_size),
        interpolation=given.interpolation,
        mean=given.mean,
        std=given.std,
        crop_pct=given.crop_pct,
    )
    return transform
