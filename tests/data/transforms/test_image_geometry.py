"""Resize and crop have the geometry of torchvision's presets."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import EfficientNet_B0_Weights, ResNet18_Weights, ViT_B_16_Weights

from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry, Interpolation, decode_image, resize_and_crop

_SIZES = [(375, 500), (500, 333), (224, 224), (256, 257), (31, 57), (301, 100), (640, 427), (1, 7)]


def _noise(height: int, width: int) -> torch.Tensor:
    small = np.random.Generator(np.random.PCG64(height)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize((width, height)))).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), _SIZES)
@pytest.mark.parametrize(
    ("weights", "geometry"),
    [
        (ResNet18_Weights.IMAGENET1K_V1, ImageGeometry(224, 256, "bilinear")),
        (ResNet18_Weights.IMAGENET1K_V1, ImageGeometry(224, 200, "bilinear")),
        (EfficientNet_B0_Weights.IMAGENET1K_V1, ImageGeometry(224, 256, "bicubic")),
        (ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1, ImageGeometry(384, 384, "bicubic")),
    ],
)
def test_result_equals_torchvision_preset(
    height: int, width: int, weights: ResNet18_Weights, geometry: ImageGeometry
) -> None:
    pixels = _noise(height, width)
    preset = weights.transforms(crop_size=geometry.size, resize_size=geometry.resize)
    normalized = preset(pixels)
    mean, std = torch.tensor(preset.mean)[:, None, None], torch.tensor(preset.std)[:, None, None]
    expected = (normalized * std + mean) * 255
    # The preset computes in float32, the transform in integers with two roundings; displaced pixels differ by more.
    assert (resize_and_crop(pixels, geometry).float() - expected).abs().max() < 2.5


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_image_of_target_size_is_unchanged(interpolation: Interpolation) -> None:
    pixels = _noise(48, 48)
    assert torch.equal(resize_and_crop(pixels, ImageGeometry(48, 48, interpolation)), pixels)


def test_transform_decodes_and_collates() -> None:
    transform = ImageTransform(ImageGeometry(32, 36, "bilinear"), "none")
    examples = []
    for height, width in ((50, 40), (40, 70)):
        file = io.BytesIO()
        Image.fromarray(_noise(height, width).permute(1, 2, 0).numpy()).save(file, "PNG")
        examples.append(transform(file.getvalue(), None))
        expected = resize_and_crop(decode_image(file.getvalue()), ImageGeometry(32, 36, "bilinear"))
        assert torch.equal(examples[-1]["pixels"], expected)
    batch = transform.collate(examples)
    assert torch.equal(batch["pixels"], torch.stack([example["pixels"] for example in examples]))
    assert batch["pixels"].is_contiguous(memory_format=torch.channels_last)


def test_batch_of_no_images_is_empty() -> None:
    batch = ImageTransform(ImageGeometry(32, 36, "bilinear"), "none").collate([])
    assert batch["pixels"].shape == (0, 3, 32, 32)
    assert batch["pixels"].dtype == torch.uint8
