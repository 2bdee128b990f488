"""16-bit images keep their range in training and in the exported handler."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.readers import image_survey
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import read_image_folder
from finetune.data.readers.image_survey import survey_images
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry, decode_image
from finetune.export import inference
from finetune.models.backbone import ImageInput
from finetune.models.preprocessing import input_from_artifact, with_depth
from tests.support.labelled_data import MemoryReader, write_files


def grayscale(max_value: int, kind: str = "PNG") -> bytes:
    """A 16-bit ramp from 0 to `max_value`."""
    values = np.linspace(0, max_value, 20 * 30).astype(np.uint16).reshape(20, 30)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def big_endian_tiff(max_value: int) -> bytes:
    values = np.linspace(0, max_value, 20 * 30).astype(">u2").reshape(20, 30)
    tags = [(256, 4, 30), (257, 4, 20), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, 20), (279, 4, values.nbytes)]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">I", value) if kind == 4 else struct.pack(">HH", value, 0))
        for tag, kind, value in tags
    )
    directory = struct.pack(">H", len(tags)) + entries + bytes(4)
    return b"MM\0*" + struct.pack(">I", 8 + values.nbytes) + values.tobytes() + directory


def color_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG with 16 bits per color channel, optionally with alpha, which Pillow cannot write."""
    height, width, bands = values.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    kind = {3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ramp(max_value: int) -> torch.Tensor:
    values = np.linspace(0, max_value, 20 * 30).astype(np.uint16).reshape(20, 30)
    return torch.from_numpy(values.astype(np.int64))


ENCODERS: dict[str, Callable[[int], bytes]] = {
    "PNG": grayscale,
    "TIFF": lambda max_value: grayscale(max_value, "TIFF"),
    "big-endian TIFF": big_endian_tiff,
    "PGM": lambda max_value: grayscale(max_value, "PPM"),
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("depth", "max_value"), [(8, 255), (10, 1000), (12, 4095), (14, 9000), (16, 65535)])
def test_16_bit_grayscale_keeps_highest_bits_in_both_decoders(kind: str, depth: int, max_value: int) -> None:
    content = ENCODERS[kind](max_value)
    pixels = decode_image(content, sixteen_bit_depth=depth)
    assert torch.equal(pixels[0].long(), ramp(max_value) >> (depth - 8))
    assert pixels.max() > 100
    assert torch.equal(inference.decode_image(content, sixteen_bit_depth=depth), pixels)


@pytest.mark.parametrize("kind", ENCODERS)
def test_nearly_black_16_bit_grayscale_is_rejected(kind: str) -> None:
    content = ENCODERS[kind](255)
    with pytest.raises(BadRecordError, match=r"values up to only 255, .* range 0 to 65535; convert"):
        decode_image(content)
    with pytest.raises(ValueError, match="16-bit values up to 255"):
        inference.decode_image(content)


def test_dark_images_are_rejected_only_with_unknown_depth() -> None:
    content = grayscale(4095)
    with pytest.raises(BadRecordError, match="values up to only 4095"):
        decode_image(content)
    with pytest.raises(ValueError, match="values up to 4095"):
        inference.decode_image(content)
    assert decode_image(content, sixteen_bit_depth=16).max() == 15
    assert torch.equal(decode_image(grayscale(4096)), inference.decode_image(grayscale(4096)))


def test_16_bit_image_beyond_training_range_is_rejected() -> None:
    content = grayscale(5000)
    with pytest.raises(BadRecordError, match=r"values up to 5000, .* 4095; rescale"):
        decode_image(content, sixteen_bit_depth=12)
    with pytest.raises(ValueError, match="values up to 5000"):
        inference.decode_image(content, sixteen_bit_depth=12)


def test_black_16_bit_image_is_accepted() -> None:
    assert not decode_image(grayscale(0)).any()


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("max_value", [255, 4095])
def test_nearly_black_16_bit_color_is_rejected(bands: int, max_value: int) -> None:
    values = np.full((6, 5, bands), max_value, dtype=np.uint16)
    values[..., 3:] = 65535
    with pytest.raises(BadRecordError, match=r"16 bits per channel .* 4095.*; convert"):
        decode_image(color_png(values))
    with pytest.raises(ValueError, match="16 bits per colour"):
        inference.decode_image(color_png(values))
    values[0, 0, 0] = 65535
    assert torch.equal(decode_image(color_png(values)), inference.decode_image(color_png(values)))


def test_nearly_black_16_bit_ppm_is_rejected() -> None:
    dark = b"P6 4 4 65535\n" + b"\x00\xff" * 48
    with pytest.raises(BadRecordError, match="16 bits per channel"):
        decode_image(dark)
    with pytest.raises(ValueError, match="16 bits per colour"):
        inference.decode_image(dark)
    for valid in (b"P6 4 4 65535\n" + b"\xff\x00" * 48, b"P6 4 4 255\n" + b"\x03" * 48, b"P4 8 2\n\xaa\x00"):
        assert torch.equal(decode_image(valid), inference.decode_image(valid))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_rejected_by_both_decoders(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (8, 8), 1).save(file, "TIFF")
    with pytest.raises(BadRecordError, match="32-bit or signed pixels"):
        decode_image(file.getvalue())
    with pytest.raises(ValueError, match="no defined range"):
        inference.decode_image(file.getvalue())


@pytest.mark.parametrize(
    ("max_value", "depth"), [(1, 8), (255, 8), (256, 10), (1024, 12), (4095, 12), (16383, 14), (16384, 16), (65535, 16)]
)
def test_depth_follows_highest_value_of_channel(max_value: int, depth: int) -> None:
    reader = MemoryReader([(grayscale(value), ("a",)) for value in (1, max_value, 1)], "image-classification")
    assert survey_images(reader) == depth


def test_high_value_outside_sample_determines_depth() -> None:
    dark = grayscale(200)
    records: list[tuple[bytes, tuple[str, ...]]] = [(dark, ("a",))] * 600
    records[601 // 2 + 1] = (grayscale(4000), ("b",))
    assert survey_images(MemoryReader(records, "image-classification")) == 12


def test_channel_without_16_bit_images_has_no_depth(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    write_files(tmp_path, {"a/1.png": file.getvalue(), "b/1.png": b"broken"})
    assert survey_images(read_image_folder(list_files("train", tmp_path))) is None


def test_survey_does_not_decode_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_survey, "MAX_PIXELS", 100)
    assert survey_images(MemoryReader([(grayscale(255), ("a",))], "image-classification")) is None


def test_survey_warns_about_low_values_and_multiple_pages(caplog: pytest.LogCaptureFixture) -> None:
    pages = io.BytesIO()
    Image.new("L", (4, 4)).save(pages, "TIFF", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    contents = [grayscale(65535), grayscale(255), pages.getvalue()]
    with caplog.at_level(logging.WARNING):
        depth = survey_images(MemoryReader([(content, ("a",)) for content in contents], "image-classification"))
    assert depth == 16
    assert "1 of 3 non-JPEG images use less than a sixteenth of the range 0 to 65535" in caplog.text
    assert "record-1 (maximum 255)" in caplog.text
    assert "1 of 3 non-JPEG images have several pages; only the first page is read: record-2" in caplog.text
    caplog.clear()
    survey_images(MemoryReader([(grayscale(255), ("a",))] * 2, "image-classification"))
    assert "2 16-bit images have values up to 255, so they are read as 8-bit images" in caplog.text


def test_depth_is_stored_in_artifact_and_used_by_transform() -> None:
    expects = ImageInput(16, 16, "bilinear", (0.5,) * 3, (0.5,) * 3, sixteen_bit_depth=12)
    assert input_from_artifact(asdict(expects)) == expects
    without = {name: value for name, value in asdict(expects).items() if name != "sixteen_bit_depth"}
    earlier = input_from_artifact(without)
    assert earlier is not None
    assert earlier.sixteen_bit_depth is None
    assert with_depth(expects, 16, trained=False) == expects
    assert with_depth(expects, 16, trained=True).sixteen_bit_depth == 16
    assert with_depth(earlier, 10, trained=False).sixteen_bit_depth == 10
    assert with_depth(expects, None, trained=True) == expects
    transform = ImageTransform(ImageGeometry(16, 16, "bilinear", 12), "none")
    pixels = transform(grayscale(4095), None)["pixels"]
    handler_pixels = inference.resize_and_crop(inference.decode_image(grayscale(4095), 16, 12), asdict(expects))
    assert pixels.max() > 240
    assert torch.equal(pixels, handler_pixels)
