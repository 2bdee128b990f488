"""Inspects the images of a channel before training: value range of 16-bit images and multi-page files."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.readers.channel_files import ending_of, some_of
from finetune.data.record import Reader
from finetune.data.transforms.image import (
    DECODING_MEMORY,
    DEFAULT_BIT_DEPTH,
    FORMATS,
    IMAGE_ERRORS,
    MAX_PIXELS,
    ignore_pillow_warnings,
)
from finetune.errors import DataError
from finetune.runtime.threads import usable_cores

_log = logging.getLogger(__name__)

_SAMPLE_SIZE = 256
_DEPTHS = (8, 10, 12, 14)
"""Bit depths below 16 that cameras, scanners and converters store in 16-bit files."""
_JPEG_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif"})
_MAX_THREADS = 16
_BYTES_PER_PIXEL = 4


@dataclass(frozen=True, slots=True)
class _ImageProperties:
    """Properties of one image.

    Attributes:
        highest: maximum value of a 16-bit grayscale image; `None` for other images.
        pages: number of pages of a TIFF; 1 for other formats.
    """

    key: str
    highest: int | None
    pages: int


def survey_images(reader: Reader) -> int | None:
    """Determine the bit depth of 16-bit grayscale images, and warn about content that decoding ignores.

    Opens a sample of 256 to 511 images spread over the channel (all if there are fewer), excluding JPEG. If the 16-bit
    images in the sample use only 8, 10, 12 or 14 bits, all images are opened, since a single higher value changes the
    depth. The result depends only on the records.

    Args:
        reader: reader of an image channel.

    Returns:
        Bits used by 16-bit grayscale images: 8, 10, 12, 14 or 16; `None` if there are no such images.
    """
    candidates = [index for index in range(len(reader)) if ending_of(reader.key(index)) not in _JPEG_ENDINGS]
    step = max(1, len(candidates) // _SAMPLE_SIZE)
    sample = candidates[::step]
    images = _inspect_images(reader, sample)
    depth = _bit_depth(images)
    if depth < DEFAULT_BIT_DEPTH and len(sample) < len(candidates):
        images = _inspect_images(reader, candidates)
        depth = _bit_depth(images)
    _warn(reader.channel, images, depth, sampled=len(images) < len(candidates))
    return depth if any(image.highest is not None for image in images) else None


def _inspect_images(reader: Reader, indices: Sequence[int]) -> list[_ImageProperties]:
    ignore_pillow_warnings()
    with ThreadPoolExecutor(min(_MAX_THREADS, 2 * usable_cores())) as threads:
        return [
            image for image in threads.map(lambda index: _inspect_image(reader, index), indices) if image is not None
        ]


def _inspect_image(reader: Reader, index: int) -> _ImageProperties | None:
    """Inspect an image; return `None` if it cannot be read, which is reported when it is decoded."""
    try:
        content = reader.read(index).content
        if not isinstance(content, bytes):
            return None
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            highest = None
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                with DECODING_MEMORY.reserve(image.width * image.height * _BYTES_PER_PIXEL):
                    highest = int(np.asarray(image).max())
                    image.close()
            pages = 1
            if image.format == "TIFF":
                with suppress(*IMAGE_ERRORS):
                    pages = getattr(image, "n_frames", 1)
            return _ImageProperties(reader.key(index), highest, pages)
    except (BadRecordError, DataError, *IMAGE_ERRORS):
        return None


def _bit_depth(images: Sequence[_ImageProperties]) -> int:
    highest = max((image.highest for image in images if image.highest is not None), default=0)
    return next((depth for depth in _DEPTHS if 0 < highest < 1 << depth), DEFAULT_BIT_DEPTH)


def _warn(channel: str, images: Sequence[_ImageProperties], depth: int, *, sampled: bool) -> None:
    scope = f"{len(images)} sampled images" if sampled else f"{len(images)} non-JPEG images"
    deep_images = [image for image in images if image.highest is not None]
    if depth < DEFAULT_BIT_DEPTH:
        _log.warning(
            "channel %r: %d 16-bit images have values up to %d, so they are read as %d-bit images in training and by"
            " the exported handler",
            channel,
            len(deep_images),
            max(image.highest or 0 for image in deep_images),
            depth,
        )
    dark = [image for image in deep_images if image.highest is not None and image.highest < 1 << (depth - 4)]
    if dark:
        _log.warning(
            "channel %r: %d of %s use less than a sixteenth of the range 0 to %d of 16-bit images and are almost black,"
            " such as %s (maximum %s); scale their values, or save them with 8 bits",
            channel,
            len(dark),
            scope,
            2**depth - 1,
            dark[0].key,
            dark[0].highest,
        )
    multi_page_images = [image for image in images if image.pages > 1]
    if multi_page_images:
        _log.warning(
            "channel %r: %d of %s have several pages; only the first page is read: %s",
            channel,
            len(multi_page_images),
            scope,
            some_of(f"{image.key} ({image.pages} pages)" for image in multi_page_images),
        )
