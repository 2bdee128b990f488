"""Augmentation varies images, and is a pure function of image and random state."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.config.hyperparameters import Augmentation
from finetune.data.transforms.augmentation import _OPERATIONS, AugmentationOptions, augment
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry, resize_and_crop

_GEOMETRY = ImageGeometry(64, 72, "bilinear")
PLAIN = AugmentationOptions()
BLURRED = AugmentationOptions(blur=0.5)


def _image(height: int = 90, width: int = 120) -> Tensor:
    noise = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(noise).resize((width, height)))).permute(2, 0, 1)


@pytest.mark.parametrize("strength", ["basic", "strong", "trivial"])
def test_augmentation_is_independent_of_global_state_and_threads(strength: Augmentation) -> None:
    assert strength != "none"
    threads = torch.get_num_threads()
    for seed in range(40):
        first = augment(_image(), _GEOMETRY, strength, random.Random(seed), BLURRED)
        random.seed(seed + 1)
        torch.manual_seed(seed + 2)
        torch.set_num_threads(3)
        second = augment(_image(), _GEOMETRY, strength, random.Random(seed), BLURRED)
        torch.set_num_threads(threads)
        assert torch.equal(first, second)
        assert (first.shape, first.dtype) == ((3, 64, 64), torch.uint8)


@pytest.mark.parametrize("strength", ["basic", "strong", "trivial"])
def test_global_generators_are_unchanged(strength: Augmentation) -> None:
    assert strength != "none"
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # a tuple, unless legacy=False
    for seed in range(20):
        augment(_image(), _GEOMETRY, strength, random.Random(seed))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]  # as above


def test_basic_crops_and_flips_half_of_the_images() -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200)
    widths, mirrored = [], 0
    for seed in range(300):
        row = augment(ramp, _GEOMETRY, "basic", random.Random(seed))[0, 0].int()
        mirrored += int(row[0] > row[-1])
        widths.append(int((row[0] - row[-1]).abs()) / 200)
    assert 110 < mirrored < 190
    assert min(widths) > 0.42
    assert max(widths) > 0.95


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 3), (20, 400)])
def test_images_with_extreme_shapes_are_augmented(height: int, width: int) -> None:
    for seed in range(20):
        assert augment(_image(height, width), _GEOMETRY, "strong", random.Random(seed)).shape == (3, 64, 64)


@pytest.mark.parametrize("number", range(len(_OPERATIONS)))
def test_every_operation_changes_image_but_not_shape(number: int) -> None:
    image = resize_and_crop(_image(), _GEOMETRY) // 2 + 40
    for magnitude in (-1.0, -0.6, 0.6, 1.0):
        augmented = _OPERATIONS[number](image, magnitude)
        assert (augmented.shape, augmented.dtype) == (image.shape, image.dtype)
        assert not torch.equal(augmented, image)
        assert augmented.float().std() > 5


def _has_plain_square(pixels: Tensor, side: int = 6) -> bool:
    squares = pixels.unfold(1, side, 1).unfold(2, side, 1).flatten(-2)
    return bool((squares.amax(-1) == squares.amin(-1)).all(0).any())


def test_strong_changes_more_than_basic_and_may_erase() -> None:
    differing = erased = 0
    for seed in range(60):
        basic = augment(_image(), _GEOMETRY, "basic", random.Random(seed))
        strong = augment(_image(), _GEOMETRY, "strong", random.Random(seed))
        differing += int(not torch.equal(basic, strong))
        erased += int(_has_plain_square(strong))
    assert differing > 50
    assert erased > 15


def test_no_augmentation_without_randomness() -> None:
    file = io.BytesIO()
    Image.fromarray(_image().permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    plain = ImageTransform(_GEOMETRY, "none")(file.getvalue(), random.Random(0))["pixels"]
    for augmentation in ("none", "basic", "strong"):
        transform = ImageTransform(_GEOMETRY, augmentation)
        assert torch.equal(transform(file.getvalue(), None)["pixels"], plain)
    assert not torch.equal(ImageTransform(_GEOMETRY, "basic")(file.getvalue(), random.Random(0))["pixels"], plain)


def test_vertical_flips_half_of_the_images() -> None:
    ramp = torch.arange(200, dtype=torch.uint8)[:, None].expand(3, 200, 150)
    flipped = [
        bool(column[0] > column[-1])
        for seed in range(300)
        for column in [augment(ramp, _GEOMETRY, "basic", random.Random(seed), AugmentationOptions(True))[0, :, 0]]
    ]
    assert 110 < sum(flipped) < 190


def test_blur_is_applied_with_its_probability_and_keeps_the_mean() -> None:
    noise = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pairs = [
        [augment(noise, _GEOMETRY, "basic", random.Random(seed), options).float() for options in (PLAIN, BLURRED)]
        for seed in range(100)
    ]
    blurred = [(plain, other) for plain, other in pairs if not torch.equal(plain, other)]
    assert 30 < len(blurred) < 60  # the smallest blurs change nothing
    for plain, other in blurred:
        assert other.diff(dim=-1).abs().mean() < plain.diff(dim=-1).abs().mean()
        torch.testing.assert_close(other.mean(), plain.mean(), rtol=0, atol=2.0)


def test_strength_scales_the_operations() -> None:
    def change(strength: float) -> float:
        options = AugmentationOptions(strength=strength)
        images = [augment(_image(), _GEOMETRY, "trivial", random.Random(seed), options).float() for seed in range(60)]
        plain = [augment(_image(), _GEOMETRY, "basic", random.Random(seed)).float() for seed in range(60)]
        return float(sum((image - other).abs().mean() for image, other in zip(images, plain, strict=True)))

    assert change(0.2) < change(1.0) < change(3.0)
