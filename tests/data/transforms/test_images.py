"""Images of every format and mode are decoded as by Pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from finetune.data.transforms.image import decode_image

_HEIGHT, _WIDTH = 37, 52


def _colors(height: int = _HEIGHT, width: int = _WIDTH) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    planes = (127 + 120 * np.sin(x / 9 + y / 17), 127 + 120 * np.cos(x / 23 - y / 7), (3 * x + 2 * y) % 256)
    return np.stack(planes, axis=-1).astype(np.uint8)


def _image(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(_colors()).convert(mode)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chw(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _pillow(content: bytes) -> Tensor:
    return _chw(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats_preserve_pixels(kind: str, options: dict[str, object], mode: str) -> None:
    pixels = decode_image(_encode(_image(mode), kind, **options))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, _chw(_image(mode)))


def test_first_frame_is_decoded() -> None:
    first, second = _image("P"), ImageChops.invert(_image()).convert("P")
    for kind in ("GIF", "TIFF", "PNG"):
        content = _encode(first, kind, save_all=True, append_images=[second])
        assert torch.equal(decode_image(content), _chw(first))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [40, 90])
def test_jpeg_is_bit_identical_to_pillow(mode: str, subsampling: str, progressive: bool, quality: int) -> None:
    content = _encode(_image(mode), "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)
    assert torch.equal(decode_image(content), _pillow(content))


def test_rgb_jpeg_is_not_decoded_as_ycbcr() -> None:
    content = _encode(_image(), "JPEG", keep_rgb=True, quality=95)
    assert (decode_image(content).int() - _chw(_image()).int()).abs().max() < 25
    assert torch.equal(decode_image(content), _pillow(content))


def test_cmyk_jpeg_is_not_inverted() -> None:
    # Pillow writes CMYK like Adobe: inverted, with Adobe's marker.
    content = _encode(_image("CMYK"), "JPEG", quality=100, subsampling=0)
    assert Image.open(io.BytesIO(content)).info["adobe"]
    assert (decode_image(content).int() - _chw(_image()).int()).abs().float().mean() < 2


def test_cmyk_jpeg_without_adobe_marker_is_inverted() -> None:
    content = _encode(ImageChops.invert(_image("CMYK")), "JPEG", quality=100, subsampling=0)
    start = content.index(b"\xff\xee")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    content = content[:start] + content[start + 2 + length :]
    assert "adobe" not in Image.open(io.BytesIO(content)).info
    assert (decode_image(content).int() - _chw(_image()).int()).abs().float().mean() < 2


def test_transparency_is_composited_on_white() -> None:
    colors = _colors()
    alpha = np.linspace(0, 255, _WIDTH).astype(np.uint8)[None].repeat(_HEIGHT, axis=0)
    share = torch.from_numpy(alpha).double() / 255
    for rgba in (np.dstack([colors, alpha]), np.dstack([colors[..., :1].repeat(3, axis=2), alpha])):
        image = Image.fromarray(rgba)
        expected = _chw(Image.fromarray(rgba[..., :3])) * share + 255 * (1 - share)
        is_gray = np.array_equal(rgba[..., 0], rgba[..., 1])
        pixels = decode_image(_encode(image.convert("LA") if is_gray else image, "PNG"))
        assert (pixels - expected).abs().max() <= 1


@pytest.mark.parametrize("transparency", [7, bytes([0] * 16 + [255] * 240)])
def test_transparent_palette_entries_are_white(transparency: int | bytes) -> None:
    indices = (np.arange(_HEIGHT * _WIDTH) % 32).astype(np.uint8).reshape(_HEIGHT, _WIDTH)
    image = Image.fromarray(indices).copy()
    image.putpalette([value for entry in range(256) for value in (entry, 200 - entry % 200, 3)])
    clear = [transparency] if isinstance(transparency, int) else list(range(16))
    expected = _chw(image)
    expected[:, torch.from_numpy(np.isin(indices, clear))] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decode_image(_encode(image, "PNG", transparency=transparency)), expected)


def test_transparent_color_of_png_is_white() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    assert decode_image(_encode(image, "PNG", transparency=(10, 20, 30))).eq(255).all()


def test_bilevel_image_has_values_0_and_255() -> None:
    assert torch.equal(decode_image(_encode(_image("1"), "PNG")), _chw(_image("1")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grayscale_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, _HEIGHT * _WIDTH).astype(np.uint16).reshape(_HEIGHT, _WIDTH)
    pixels = decode_image(_encode(Image.fromarray(values), kind))
    assert torch.equal(pixels, torch.from_numpy((values // 256).astype(np.uint8)).expand(3, -1, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_rotates_image(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _encode(_image(), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert torch.equal(decode_image(content), _chw(upright))


def test_invalid_exif_data_causes_no_warning() -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x12\x01\x03\x00\xff\xff\xff\x00"
    content = _encode(_image(), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decode_image(content), _pillow_quietly(content))


def _pillow_quietly(content: bytes) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _pillow(content)
