"""Large JPEGs are decoded at a reduced scale, by one rule for training and the exported handler."""

from __future__ import annotations

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms import image as images
from finetune.data.transforms.augmentation import augmentation_source_side, downscale_for_augmentation
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry, decode_image, resize_and_crop
from finetune.export import inference
from finetune.models.backbone import ImageInput

GEOMETRY = ImageGeometry(24, 28, "bilinear")


def encode(width: int, height: int, kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.Generator(np.random.PCG64(width)).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, kind, **options)
    return file.getvalue()


def rotated(width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(width, height, exif=exif)


@pytest.mark.parametrize(
    ("shorter", "scale"), [(50, 1), (111, 1), (112, 2), (223, 2), (224, 4), (447, 4), (448, 8), (1000, 8)]
)
def test_reduced_scale_keeps_twice_the_needed_pixels(shorter: int, scale: int) -> None:
    width = shorter + 31
    size = (3, -(-shorter // scale), -(-width // scale))
    assert decode_image(encode(width, shorter), 28).shape == size
    assert decode_image(encode(shorter, width), 28).shape == (size[0], size[2], size[1])


def test_other_formats_and_unspecified_side_are_decoded_in_full() -> None:
    assert decode_image(encode(500, 400)).shape == (3, 400, 500)
    for kind in ("PNG", "BMP", "WEBP"):
        assert decode_image(encode(500, 400, kind), 28).shape == (3, 400, 500)


LARGE = {
    "plain": encode(501, 403),
    "progressive": encode(333, 241, progressive=True),
    "grey": encode(257, 301, mode="L"),
    "CMYK": encode(260, 240, mode="CMYK"),
    "4:4:4": encode(799, 451, subsampling=0),
    "turned": rotated(400, 250),
    "not large enough": encode(111, 111),
}


@pytest.mark.parametrize("name", LARGE)
def test_handler_decodes_same_pixels(name: str) -> None:
    content = LARGE[name]
    expected = resize_and_crop(decode_image(content, GEOMETRY.resize), GEOMETRY)
    preprocessing = asdict(ImageInput(24, 28, "bilinear", (0.5,) * 3, (0.25,) * 3))
    actual = inference.resize_and_crop(inference.decode_image(content, preprocessing["resize"]), preprocessing)
    assert torch.equal(expected, actual)
    transform = ImageTransform(GEOMETRY, "basic")
    assert torch.equal(transform(content, None)["pixels"], expected)


@pytest.mark.parametrize("name", LARGE)
def test_reduced_image_is_similar_to_full_image(name: str) -> None:
    content = LARGE[name]
    reduced = resize_and_crop(decode_image(content, GEOMETRY.resize), GEOMETRY)
    full = resize_and_crop(decode_image(content), GEOMETRY)
    difference = (reduced.int() - full.int()).abs().float().mean()
    # At these small sizes, rounding up the reduced size alone shifts the far edge by a third of a pixel.
    assert difference < 5
    assert difference < (full.int() - full.roll(1, -1).int()).abs().float().mean() / 3


def test_augmented_image_is_reduced_less() -> None:
    content, side = encode(501, 403), augmentation_source_side(GEOMETRY)
    assert side == 41
    pixels = ImageTransform(GEOMETRY, "strong").decode(content, augmented=True)
    assert torch.equal(pixels, downscale_for_augmentation(decode_image(content, side), GEOMETRY))
    assert decode_image(content, side).shape == (3, 101, 126)


def test_large_truncated_image_is_rejected_by_both_decoders() -> None:
    content = encode(501, 403)[:-2000]
    with pytest.raises(BadRecordError, match="truncated"):
        decode_image(content, 28)
    with pytest.raises(ValueError, match="cannot be decoded"):
        inference.decode_image(content, 28)


def test_pixel_limit_applies_to_full_size_of_reduced_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 200_000)
    with pytest.raises(BadRecordError, match="more than the limit of 200,000"):
        decode_image(encode(501, 403), 28)
