"""Content that is not a valid image is rejected with a message before it causes harm."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms.image import MAX_PIXELS, ImageGeometry, decode_image, resize_and_crop


def _encode(kind: str, size: tuple[int, int] = (61, 47), **options: object) -> bytes:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


_VALID = {
    "jpeg": _encode("JPEG"),
    "progressive": _encode("JPEG", progressive=True),
    "png": _encode("PNG"),
    "webp": _encode("WEBP"),
    "bmp": _encode("BMP"),
    "gif": _encode("GIF"),
    "tiff": _encode("TIFF"),
    "tiff_lzw": _encode("TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", _VALID)
def test_truncated_image_is_rejected(name: str) -> None:
    content = _VALID[name]
    decode_image(content)
    for share in (0.3, 0.5, 0.9):
        with pytest.raises(BadRecordError):
            decode_image(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["jpeg", "progressive"])
def test_jpeg_truncated_anywhere_is_rejected(name: str) -> None:
    content = _VALID[name]
    for length in range(0, len(content) - 2, 37):
        with pytest.raises(BadRecordError):
            decode_image(content[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "is not an image in a supported format"),
        (b"\x00" * 5000, "is not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a supported format"),
        (_VALID["jpeg"][:1500], "is a truncated image"),
        (_VALID["png"][:1500], "is a truncated image"),
    ],
)
def test_error_describes_content(content: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        decode_image(content)


def _png_with_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_rejected_by_header(width: int, height: int) -> None:
    with pytest.raises(BadRecordError, match=f"the limit of {MAX_PIXELS:,}"):
        decode_image(_png_with_header(width, height))


def test_valid_decompression_bomb_is_rejected() -> None:
    file = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    with pytest.raises(BadRecordError, match="has 11000 x 11000 pixels"):
        decode_image(file.getvalue())


def test_extremely_narrow_image_is_rejected() -> None:
    file = io.BytesIO()
    Image.new("RGB", (60_000, 1)).save(file, "PNG")
    with pytest.raises(BadRecordError, match="60000 x 1 pixels, too narrow"):
        resize_and_crop(decode_image(file.getvalue()), ImageGeometry(224, 256, "bilinear"))


def test_float_pixels_are_rejected() -> None:
    file = io.BytesIO()
    Image.new("F", (8, 8), 0.5).save(file, "TIFF")
    with pytest.raises(BadRecordError, match="32-bit"):
        decode_image(file.getvalue())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_image_raises_only_bad_record_error(data: st.DataObject) -> None:
    content = bytearray(_VALID[data.draw(st.sampled_from(sorted(_VALID)))])
    positions = st.integers(0, 400) | st.integers(0, len(content) - 1)
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)):
        content[position % len(content)] = value
    try:
        pixels = decode_image(bytes(content))
    except BadRecordError as error:
        assert str(error)
    else:
        assert pixels.shape[0] == 3
