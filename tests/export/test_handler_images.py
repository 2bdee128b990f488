"""The artifact's handler preprocesses images exactly as the evaluation does."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms import image as images
from finetune.export import inference
from finetune.job.data.loaders import image_geometry
from finetune.models.backbone import ImageInput
from finetune.models.preprocessing import Normalizer
from tests.support.artifact_images import encode_image, make_image


def with_transparent_palette() -> bytes:
    return encode_image(make_image(1, "RGB").quantize(8), transparency=3)


def with_transparent_colour() -> bytes:
    image = make_image(1)
    return encode_image(image, transparency=image.getpixel((4, 4)))


def cmyk_without_adobe_marker() -> bytes:
    content = encode_image(make_image(3, "CMYK"), "JPEG")
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 16 :]


def sixteen_bits() -> bytes:
    levels = np.arange(45 * 37, dtype=np.uint16).reshape(37, 45) * 39
    return encode_image(Image.fromarray(levels))


def with_orientation(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode_image(make_image(orientation), kind, exif=exif)


IMAGES = {
    "baseline JPEG": encode_image(make_image(0), "JPEG"),
    "progressive JPEG": encode_image(make_image(1), "JPEG", progressive=True, quality=60),
    "4:4:4 JPEG": encode_image(make_image(2), "JPEG", subsampling=0, quality=95),
    "4:2:2 JPEG of odd sides": encode_image(make_image(2, size=(51, 33)), "JPEG", subsampling=1),
    "grey JPEG": encode_image(make_image(3, "L"), "JPEG"),
    "CMYK JPEG": encode_image(make_image(3, "CMYK"), "JPEG"),
    "CMYK JPEG without Adobe's marker": cmyk_without_adobe_marker(),
    "bilevel PNG": encode_image(make_image(4, "1")),
    "grey PNG": encode_image(make_image(4, "L")),
    "grey PNG with alpha": encode_image(make_image(4, "LA")),
    "palette PNG": encode_image(make_image(4, "P")),
    "palette PNG with transparency": with_transparent_palette(),
    "RGB PNG with a transparent colour": with_transparent_colour(),
    "RGBA PNG": encode_image(Image.merge("RGBA", (*make_image(4).split(), make_image(5, "L")))),
    "16-bit PNG": sixteen_bits(),
    "BMP": encode_image(make_image(5), "BMP"),
    "palette BMP": encode_image(make_image(5, "P"), "BMP"),
    "WebP": encode_image(make_image(6), "WEBP"),
    "WebP with alpha": encode_image(
        Image.merge("RGBA", (*make_image(4).split(), make_image(5, "L"))), "WEBP", lossless=True
    ),
    "TIFF": encode_image(make_image(6, "LAB"), "TIFF"),
    "CMYK TIFF": encode_image(make_image(6, "CMYK"), "TIFF"),
    "smaller than the crop": encode_image(make_image(7, size=(9, 5))),
    "a single pixel": encode_image(make_image(7, size=(1, 1))),
    "tall": encode_image(make_image(8, size=(8, 300)), "JPEG"),
    **{f"JPEG of orientation {n}": with_orientation(n) for n in range(10)},
    **{f"PNG of orientation {n}": with_orientation(n, "PNG") for n in (5, 6)},
    "WebP of orientation 8": with_orientation(8, "WEBP"),
}
INPUTS = {
    "bilinear": ImageInput(24, 28, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "bicubic": ImageInput(31, 31, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "nearest": ImageInput(48, 40, "nearest", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "stretched": ImageInput(24, 31, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), stretch=True, floor_crop=True),
}


@pytest.mark.parametrize("name", IMAGES)
def test_handler_and_evaluation_decode_the_same_pixels(name: str) -> None:
    assert torch.equal(inference.decode_image(IMAGES[name]), images.decode_image(IMAGES[name]))


class InputRecorder(nn.Module):
    """Records its inputs."""

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return torch.zeros(len(pixels), 2)


@pytest.mark.parametrize("expects", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("name", IMAGES)
def test_handler_and_evaluation_preprocess_equally(name: str, expects: ImageInput) -> None:
    geometry = image_geometry(expects)
    evaluated = images.resize_and_crop(images.decode_image(IMAGES[name]), geometry)
    network = InputRecorder()
    artifact = {
        "framework": "torchvision",
        "preprocessing": asdict(expects),
        "labels": ["a", "b"],
        "multi_label": False,
    }
    request = inference.input_fn(IMAGES[name], "application/x-image")
    inference.predict_fn(request, inference.Model(network, artifact, None, torch.device("cpu")))
    assert torch.equal(network.seen, Normalizer(expects)({"pixels": evaluated.unsqueeze(0)}))


BROKEN = {
    "empty": b"",
    "text": b"not a picture",
    "cut off": encode_image(make_image(1), "JPEG")[:600],
    "PNG cut off": encode_image(make_image(1))[:400],
    "damaged PNG": encode_image(make_image(1))[:60] + b"\xff" * 40 + encode_image(make_image(1))[100:],
    "PDF": encode_image(make_image(1), "PDF"),
    "32-bit pixels": encode_image(make_image(1, "F"), "TIFF"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_handler_refuses_the_same_images_as_the_job(content: bytes) -> None:
    with pytest.raises(BadRecordError):
        images.decode_image(content)
    with pytest.raises(ValueError, match="cannot be decoded"):
        inference.decode_image(content)
