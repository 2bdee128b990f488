"""A model's pixel inputs equal those of its folder's image processor, or the folder is rejected by name."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import decode_image, resize_and_crop
from finetune.errors import UserError
from finetune.export import inference
from finetune.job.data.loaders import image_geometry
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import load_backbone
from finetune.models.preprocessing import Normalizer
from tests.support.model_requests import LABELS, request_model
from tests.support.tiny_transformers import write_folder, write_processor

SIZES = ((50, 40), (40, 53), (31, 90), (32, 32), (5, 9), (1, 1), (120, 33), (300, 8), (47, 40), (43, 41))
"""Width and height of images: odd and even margins, upscaling, extreme aspect ratios, a single pixel."""
# Resizing uint8 images rounds to integers in an order that depends on the memory layout.
ONE_LEVEL = 1.0


def image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.Generator(np.random.PCG64(width * 1000 + height)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own options
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reference(folder: Path, content: bytes) -> Tensor:
    """The inputs that transformers' own pipeline gives its model."""
    from transformers import AutoImageProcessor as Untyped
    from transformers.image_utils import load_image

    auto: Any = Untyped
    processor = auto.from_pretrained(folder)
    pixels: Tensor = processor(images=load_image(Image.open(io.BytesIO(content))), return_tensors="pt").pixel_values[0]
    return pixels.float()


def preprocess(expects: ImageInput, content: bytes) -> Tensor:
    geometry = image_geometry(expects)
    pixels = resize_and_crop(decode_image(content, geometry.decoded_side), geometry)
    return Normalizer(expects)({"pixels": pixels.unsqueeze(0)})[0]


def input_of(backbone: Backbone) -> ImageInput:
    assert isinstance(backbone.expects, ImageInput)
    return backbone.expects


def assert_equal(folder: Path, expects: ImageInput, content: bytes) -> None:
    expected, actual = reference(folder, content), preprocess(expects, content)
    assert actual.shape == expected.shape
    level = ONE_LEVEL / 255 / torch.tensor(expects.std).view(3, 1, 1)
    assert ((actual - expected).abs() <= 1.01 * level).all()
    assert ((actual - expected).abs() > 0.01 * level).float().mean() < 0.02


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "vit", "vit", labels=LABELS)


SHORTEST: dict[str, object] = {
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}
CONVNEXT: dict[str, object] = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}}
OBEYED: dict[str, dict[str, object]] = {
    "default": {},
    "without normalization": {"do_normalize": False},
    "without rescaling": {"do_rescale": False},
    "neither normalized nor rescaled": {"do_normalize": False, "do_rescale": False},
    "another factor": {"rescale_factor": 1 / 127.5},
    "another factor alone": {"rescale_factor": 1 / 100, "do_normalize": False},
    "nearest": {"resample": 0},
    "bilinear": {"resample": 2},
    "bicubic": {"resample": 3},
    "a number as size": {"size": 32},
    "a list as size": {"size": [32, 32]},
    "shortest edge and crop": SHORTEST,
    "nearest and crop": {**SHORTEST, "resample": 0},
    "a crop that pads": {**SHORTEST, "size": {"shortest_edge": 27}},
    "a stretched image that is cropped": {**SHORTEST, "size": {"height": 41, "width": 41}},
    "a number as crop": {**SHORTEST, "crop_size": 32},
    "a crop that is switched off": {"do_center_crop": False, "crop_size": {"height": 16, "width": 16}},
    "one mean for all channels": {"image_mean": [0.5], "image_std": 0.25},
    "no switch for normalization": {"do_normalize": None},
    "no conversion to RGB": {"do_convert_rgb": False},
    "DeiT": {**SHORTEST, "image_processor_type": None, "feature_extractor_type": "DeiTFeatureExtractor", "size": 40},
    "Bit": {**SHORTEST, "image_processor_type": "BitImageProcessor", "size": 40},
    "CLIP": {**SHORTEST, "image_processor_type": "CLIPImageProcessorFast", "size": 40},
    "Siglip": {"image_processor_type": "SiglipImageProcessor"},
    "Blip": {"image_processor_type": "BlipImageProcessor"},
    "Pvt": {"image_processor_type": "PvtImageProcessor"},
    "ChineseCLIP": {**SHORTEST, "image_processor_type": "ChineseCLIPImageProcessor"},
    "MobileNetV1": {**SHORTEST, "image_processor_type": "MobileNetV1ImageProcessor"},
    "ConvNext": CONVNEXT,
    "ConvNext, its own share": {**CONVNEXT, "crop_pct": 0.7},
    "ConvNext, cropped again": {**CONVNEXT, "do_center_crop": True, "crop_size": 32},
    "a share that ViT does not read": {"crop_pct": 0.7},
    "of an old version": {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor", "size": 32},
    "without a type": {"image_processor_type": None},
}


@pytest.mark.parametrize("changes", OBEYED.values(), ids=OBEYED)
def test_preprocessor_fields_match_transformers(vit: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    write_processor(vit, **changes)
    backbone = load_backbone(request_model(None, tmp_path, channel=vit))
    saved = tmp_path / "saved"
    saved.mkdir()
    backbone.save(saved)
    for width, height in SIZES:
        content = encoded(image(width, height))
        assert_equal(vit, input_of(backbone), content)
        assert torch.equal(reference(saved, content), reference(vit, content))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"size": {"height": 32, "width": 16}}, "size"),
        ({"size": {"longest_edge": 32, "shortest_edge": 16}, "do_center_crop": True, "crop_size": 16}, "size"),
        ({"size": {"max_height": 32, "max_width": 32}}, "size"),
        ({"size": {"shortest_edge": 32}}, "do_center_crop"),
        ({**SHORTEST, "crop_size": {"height": 32, "width": 24}}, "crop_size"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_resize": False}, "do_resize"),
        ({"do_resize": "no"}, "do_resize"),
        ({"do_normalize": "false"}, "do_normalize"),
        ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "do_pad"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"size": None}, "size"),
        ({"image_mean": None}, "image_mean"),
        ({"resample": None}, "resample"),
        ({"resample": 1}, "resample"),
        ({"resample": [2]}, "resample"),
        ({"device": True}, "device"),
        ({"resample": 4}, "resample"),
        ({"resample": 5}, "resample"),
        ({"input_data_format": "channels_last"}, "input_data_format"),
        ({**CONVNEXT, "size": {"height": 32, "width": 32}}, "size"),
        ({**CONVNEXT, "crop_pct": 0}, "crop_pct"),
        ({**CONVNEXT, "do_center_crop": True, "crop_size": 16}, "crop_size"),
        ({"image_processor_type": "DonutImageProcessor"}, "image_processor_type"),
    ],
)
def test_unsupported_preprocessor_fields_are_refused(
    vit: Path, tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    write_processor(vit, **changes)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json in the model channel has {field}="):
        load_backbone(request_model(None, tmp_path, channel=vit))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"image_processor_type": "Nobody"}', '{"size": {"side": 3}}', '{"valid_kwargs": 3}']
)
def test_a_damaged_preprocessor_file_is_refused(vit: Path, tmp_path: Path, content: str) -> None:
    (vit / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=r"preprocessor_config\.json in the model channel"):
        load_backbone(request_model(None, tmp_path, channel=vit))


def test_ignored_fields_are_logged(vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_processor(vit, offset=True, do_flip_channel_order=True)
    with caplog.at_level(logging.WARNING, "finetune"):
        load_backbone(request_model(None, tmp_path, channel=vit))
    assert "ViTImageProcessor does not use: do_flip_channel_order, offset" in caplog.text


def test_processor_config_takes_precedence_as_in_transformers(vit: Path, tmp_path: Path) -> None:
    processor = json.loads((vit / "preprocessor_config.json").read_text())
    (vit / "processor_config.json").write_text(json.dumps({"image_processor": {**processor, "do_normalize": False}}))
    expects = input_of(load_backbone(request_model(None, tmp_path, channel=vit)))
    assert expects.mean == (0.0, 0.0, 0.0)
    assert_equal(vit, expects, encoded(image(50, 40)))


def test_large_sides_of_convnext_are_stretched(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "resnet", "resnet", labels=LABELS)
    write_processor(folder, **{**CONVNEXT, "size": {"shortest_edge": 384}})
    expects = input_of(load_backbone(request_model(None, tmp_path, channel=folder)))
    assert (expects.size, expects.resize, expects.stretch) == (384, 384, True)
    for width, height in ((500, 400), (33, 90)):
        assert_equal(folder, expects, encoded(image(width, height)))


def test_image_size_must_match_position_embeddings(vit: Path, tmp_path: Path) -> None:
    write_processor(vit, size={"height": 64, "width": 64})
    with pytest.raises(UserError, match=r"produces images of 64 x 64, but its config\.json has image_size=32"):
        load_backbone(request_model(None, tmp_path, channel=vit))
    assert input_of(load_backbone(request_model(None, tmp_path, channel=vit, image_size=64))).size == 64
    assert input_of(load_backbone(request_model(None, tmp_path, channel=vit, image_size=32))).size == 32


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_channels": 1}, "num_channels"),
        ({"image_size": [32, 16]}, "image_size"),
        ({"patch_size": [8, 4]}, "patch"),
    ],
)
def test_models_for_non_rgb_or_non_square_images_are_refused(
    vit: Path, tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    config = json.loads((vit / "config.json").read_text())
    (vit / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=rf"config\.json in the model channel .*{field}"):
        load_backbone(request_model(None, tmp_path, channel=vit))


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(image(50, 40, "L")),
        lambda: encoded(image(50, 40, "1")),
        lambda: encoded(image(50, 40, "P")),
        lambda: encoded(image(50, 40), "JPEG", quality=90),
        lambda: encoded(image(50, 40), "JPEG", quality=90, progressive=True),
        lambda: encoded(image(50, 40, "L"), "JPEG"),
        lambda: encoded(image(50, 40), "WEBP", lossless=True),
        lambda: encoded(image(50, 40), "BMP"),
        *(lambda turn=turn: encoded(image(50, 40), "JPEG", exif=oriented(turn)) for turn in range(1, 9)),
    ],
)
def test_images_are_decoded_like_the_pipeline(vit: Path, tmp_path: Path, make: Callable[[], bytes]) -> None:
    write_processor(vit, **SHORTEST)
    assert_equal(vit, input_of(load_backbone(request_model(None, tmp_path, channel=vit))), make())


def oriented(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("floor_crop", [True, False])
def test_handler_produces_the_same_pixels(stretch: bool, floor_crop: bool) -> None:
    expects = ImageInput(24, 31, "nearest-exact", (0.5,) * 3, (0.25,) * 3, stretch=stretch, floor_crop=floor_crop)
    preprocessing = {"size": 24, "resize": 31, "interpolation": "nearest-exact"}
    preprocessing |= {"stretch": stretch, "floor_crop": floor_crop}
    for width, height in SIZES:
        pixels = decode_image(encoded(image(width, height)))
        assert torch.equal(
            resize_and_crop(pixels, image_geometry(expects)), inference.resize_and_crop(pixels, preprocessing)
        )


def test_large_jpeg_is_decoded_at_full_size_for_nearest_interpolation() -> None:
    content = encoded(image(640, 480), "JPEG")
    geometry = image_geometry(ImageInput(24, 31, "nearest-exact", (0.5,) * 3, (0.25,) * 3))
    assert decode_image(content, geometry.decoded_side).shape == (3, 480, 640)


def with_transparency() -> bytes:
    transparent = image(50, 40).convert("RGBA")
    transparent.putalpha(image(50, 40, "L"))
    return encoded(transparent)


def cmyk_without_adobe_marker() -> bytes:
    content = encoded(image(50, 40, "CMYK"), "JPEG")
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4]) :]


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (with_transparency, "Images with transparency are composited on white"),
        (lambda: encoded(image(50, 40).convert("RGBA")), None),
        (cmyk_without_adobe_marker, "CMYK JPEGs without Adobe's marker are inverted"),
        (lambda: encoded(image(50, 40, "CMYK"), "JPEG"), None),
        (lambda: encoded(image(50, 40)), None),
    ],
)
def test_decoding_difference_from_the_pipeline_is_logged_once(
    make: Callable[[], bytes], warning: str | None, vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = make()
    expects = input_of(load_backbone(request_model(None, tmp_path, channel=vit)))
    transform = ImageTransform(image_geometry(expects), "none")
    with caplog.at_level(logging.WARNING, "finetune"):
        for _ in range(2):
            transform(content, None)
    if warning is None:
        assert not caplog.records
        assert_equal(vit, expects, content)
    else:
        assert caplog.text.count(warning) == 1
