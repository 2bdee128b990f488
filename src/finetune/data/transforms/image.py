"""Decodes encoded images into the square pixel tensors that a model expects.

Evaluation, here and in the exported model, consists of exactly these steps:

1. open with Pillow, accept only `FORMATS`, refuse more than `MAX_PIXELS`;
2. decode a JPEG at half, a quarter or an eighth of its size if its shorter side is then at least `MIN_OVERSAMPLING`
   times as long as after resizing; JPEG supports this at a fraction of the time (docs/decisions/reduced-jpeg.md);
3. convert the first frame to 8-bit RGB with Pillow's `convert`; before that, shift 16-bit grayscale down to the highest
   8 of `sixteen_bit_depth` bits (of 16 if unknown), composite transparency on white, and invert a CMYK JPEG without
   Adobe's marker (Pillow assumes that all are Adobe's, which are inverted); refuse 16-bit images that would be black;
4. rotate or flip according to the EXIF orientation;
5. `torchvision.transforms.v2.functional.resize` of the shorter side, or of both sides, on uint8, antialiased;
6. `center_crop`, which pads smaller images with black.

Steps 5 and 6 follow the geometry of torchvision's `weights.transforms()`, or of the image processor of a transformers
model.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixel_ops

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms.image_formats import COMMON_ENDINGS, HEAD_BYTES, describe_content

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted formats. Pillow supports more, but EPS, for example, would start another program."""

MAX_PIXELS = 100_000_000
"""Larger images are refused before decoding; as RGB, this many pixels take 300 MB."""

DEFAULT_BIT_DEPTH = 16
"""Number of bits that 16-bit images use by default."""

MIN_OVERSAMPLING = 2
"""Minimum ratio of pixels to needed pixels per side of an image decoded at a reduced scale."""

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258

_MAX_DECODING_BYTES = 1 << 30
"""Memory limit for large images being decoded, in all threads together."""
_BYTES_PER_PIXEL = 8
"""Memory for decoding: 4 bytes in Pillow, 3 as RGB, and the transform's own."""
_PROGRESSIVE_BYTES_PER_PIXEL = 6
"""Memory for the coefficients of a progressive JPEG, at any decoding scale."""
_SMALL_IMAGE_BYTES = 1 << 25
"""Images that need less memory are decoded without a reservation."""
_BAND_PIXELS = 1 << 22
"""Images with more pixels are converted to RGB in bands of this size: the same values in less memory."""

_ORIENTATION_OPERATIONS: Mapping[object, Callable[[Tensor], Tensor]] = {
    2: lambda pixels: pixels.flip(-1),
    3: lambda pixels: pixels.flip(-1, -2),
    4: lambda pixels: pixels.flip(-2),
    5: lambda pixels: pixels.mT,
    6: lambda pixels: pixels.mT.flip(-1),
    7: lambda pixels: pixels.mT.flip(-1, -2),
    8: lambda pixels: pixels.mT.flip(-2),
}
"""Operations by EXIF orientation; 1 and undefined values leave the image unchanged."""

IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Exceptions that Pillow's parsers raise for damaged or malicious content."""

_PILLOW_MODULES = re.compile(r"PIL\.")
_WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How an image is resized and cropped to a square.

    Attributes:
        size: side of the square, in pixels.
        resize: length of the shorter side before the crop, in pixels; of both sides with `stretch`.
        interpolation: interpolation of the resize; always antialiased.
        sixteen_bit_depth: number of bits that 16-bit grayscale images use, see `decode_image`.
        stretch: whether to resize to a square, ignoring the aspect ratio.
        floor_crop: whether to round half of an odd margin down, as transformers does, rather than to even, as
            torchvision does.
    """

    size: int
    resize: int
    interpolation: Interpolation
    sixteen_bit_depth: int | None = None
    stretch: bool = False
    floor_crop: bool = False

    @property
    def decoded_side(self) -> int | None:
        """Side for which a JPEG may be decoded at a reduced scale; `None` if it must be decoded at full size.

        Nearest-neighbor interpolation picks single pixels, so averaged pixels would give a different image.
        """
        return None if self.interpolation.startswith("nearest") else self.resize


DifferenceCallback = Callable[[str], None]
"""Called with a key of `DECODING_DIFFERENCES` if an image is not decoded as by `Image.convert("RGB")`."""

DECODING_DIFFERENCES: Mapping[str, str] = {
    "transparency": "Images with transparency are composited on white, here and in the exported model; transformers"
    " pipelines and torchvision loaders drop the alpha channel instead.",
    "CMYK": "CMYK JPEGs without Adobe's marker are inverted, here and in the exported model, since Pillow reads them as"
    " negatives; transformers pipelines and torchvision loaders do not invert them.",
}


class _MemoryLimit:
    """Limits the memory of images that are decoded concurrently; thread-safe."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Wait until `count` bytes (at most the total) are free, and reserve them."""
        if count < _SMALL_IMAGE_BYTES:
            yield
            return
        count = min(count, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


DECODING_MEMORY = _MemoryLimit(_MAX_DECODING_BYTES)
"""Memory reserved for the large images currently being decoded."""


def decode_image(
    content: bytes,
    side: int | None = None,
    *,
    sixteen_bit_depth: int | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    report: DifferenceCallback | None = None,
) -> Tensor:
    """Decode an image to uint8 RGB `[3, height, width]`, rotated upright according to its EXIF orientation.

    Non-progressive RGB and grayscale JPEG is decoded by torchvision, which is a fifth faster and bit-identical; Pillow
    decodes everything else, including JPEGs at a reduced scale, which torchvision does not support. Thread-safe; huge
    images wait until there is memory for them.

    Args:
        content: the encoded image.
        side: length that the shorter side will be resized to; a much larger JPEG is decoded at a reduced scale. `None`
            decodes all pixels.
        sixteen_bit_depth: number of bits that 16-bit grayscale images use, such as 12 for values up to 4095. `None` if
            unknown: all 16 are assumed, and images that use less than a sixteenth of that range are refused.
        finish: applied to the result while the memory of a huge image is still reserved, such as a resize.
        report: called if the pixels differ from those of other libraries.

    Raises:
        BadRecordError: the content is not an image, is damaged or truncated, has more than `MAX_PIXELS`, or has
            16-bit values that do not fit the depth.
    """
    ignore_pillow_warnings()
    with ExitStack() as stack:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image.width, image.height)
                full_size = image.size
                if side is not None:
                    image.draft(None, (MIN_OVERSAMPLING * side, MIN_OVERSAMPLING * side))
                stack.enter_context(DECODING_MEMORY.reserve(_required_bytes(image, full_size)))
                pixels = _decode_jpeg(content, image) if image.size == full_size else None
                if pixels is None:
                    if report is not None:
                        _report_differences(image, report)
                    pixels = _decode_pixels(image, content, sixteen_bit_depth)
                orientation = image.getexif().get(_ORIENTATION)
                image.close()
        except BadRecordError:
            raise
        except IMAGE_ERRORS as error:
            raise BadRecordError(_error_message(content, error)) from error
        if orientation in _ORIENTATION_OPERATIONS:
            pixels = _ORIENTATION_OPERATIONS[orientation](pixels)
        return pixels if finish is None else finish(pixels)


def resize_and_crop(pixels: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resize the shorter side, then take a center crop: uint8 `[3, height, width]` to `[3, size, size]`.

    Raises:
        BadRecordError: the image is so narrow that it would be resized to more than `MAX_PIXELS`.
    """
    height, width = pixels.shape[-2:]
    sides = [geometry.resize] * (2 if geometry.stretch else 1)
    if not geometry.stretch and geometry.resize**2 * max(height, width) > MAX_PIXELS * min(height, width):
        raise BadRecordError(f"is {width} x {height} pixels, too narrow to be resized to {geometry.resize}")
    resized: Tensor = pixel_ops.resize(pixels, sides, InterpolationMode(geometry.interpolation), antialias=True)
    if geometry.floor_crop:
        # Dropping the last row or column of an odd margin gives the same crop as rounding down.
        height, width = (side - max(0, side - geometry.size) % 2 for side in resized.shape[-2:])
        resized = resized[..., :height, :width]
    cropped: Tensor = pixel_ops.center_crop(resized, [geometry.size, geometry.size])
    return cropped


def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings about image content, such as invalid EXIF data.

    `warnings.catch_warnings` does not work here: it replaces a process-wide list and is not thread-safe.
    """
    if not any(entry[3] == _PILLOW_MODULES for entry in warnings.filters):
        with _WARNINGS_LOCK:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadRecordError(f"has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise BadRecordError(f"has {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")


def _required_bytes(image: ImageFile.ImageFile, full_size: tuple[int, int]) -> int:
    coefficients = full_size[0] * full_size[1] * _PROGRESSIVE_BYTES_PER_PIXEL if "progressive" in image.info else 0
    return image.width * image.height * _BYTES_PER_PIXEL + coefficients


def _decode_jpeg(content: bytes, image: ImageFile.ImageFile) -> Tensor | None:
    """Decode non-progressive JPEG; return `None` for other or damaged content, which is left to Pillow.

    Progressive JPEG is left to Pillow too: for truncated files, the two libraries silently produce different pixels.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or "progressive" in image.info:
        return None
    try:
        # A bytearray, because torch warns about read-only buffers.
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels


def _report_differences(image: Image.Image, report: DifferenceCallback) -> None:
    """Call `report` if the image is decoded in a way listed in `DECODING_DIFFERENCES`."""
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        report("CMYK")
    elif image.has_transparency_data and (image.mode != "RGBA" or image.getchannel("A").getextrema() != (255, 255)):
        report("transparency")


def _decode_pixels(image: ImageFile.ImageFile, content: bytes, depth: int | None) -> Tensor:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        gray = _scale_16_bit(np.asarray(image), depth)
        return torch.from_numpy(np.repeat(gray[:, :, None], 3, axis=2)).permute(2, 0, 1)
    if image.mode in ("I", "F"):
        raise BadRecordError("has 32-bit or signed pixels, which have no defined range; convert it to 8 or 16 bits")
    if _is_16_bit_color(image, content) and _max_color_value(image) < 1 << 4:
        raise BadRecordError(
            "has 16 bits per channel but almost no values above 4095, so it would be black; convert it to 8 bits per"
            " channel"
        )
    inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    return torch.from_numpy(_convert_in_bands(image, inverted=inverted)).permute(2, 0, 1)


def _scale_16_bit(values: NDArray[np.integer], known_depth: int | None) -> NDArray[np.uint8]:
    max_value = int(values.max())
    depth = known_depth or DEFAULT_BIT_DEPTH
    min_value = 1 << (depth - 8 if known_depth else depth - 4)
    if max_value >> depth:
        raise BadRecordError(
            f"has 16-bit values up to {max_value}, but those of the training images end at {2**depth - 1}; rescale it"
            " to the same range"
        )
    if 0 < max_value < min_value:
        raise BadRecordError(
            f"has 16-bit values up to only {max_value}, which are black in the range 0 to {2**depth - 1}; convert it to"
            " 8 bits, or rescale its values"
        )
    return (values >> (depth - 8)).astype(np.uint8)


def _is_16_bit_color(image: ImageFile.ImageFile, content: bytes) -> bool:
    """Return whether Pillow dropped the low byte of every value, as it does for 16-bit color."""
    if image.format == "PNG":
        return content[24:25] == b"\x10"
    if image.format == "PPM":
        arguments = image.tile[0].args if image.tile else ()
        return isinstance(arguments, tuple) and any(
            isinstance(argument, int) and argument > 255 for argument in arguments
        )
    tags = getattr(image, "tag_v2", None)
    return image.format == "TIFF" and tags is not None and max(tags.get(_BITS_PER_SAMPLE, (8,))) == DEFAULT_BIT_DEPTH


def _max_color_value(image: Image.Image) -> float:
    """Return the highest value of the bands other than alpha."""
    bands = image.split() if len(image.getbands()) > 1 else (image,)
    extrema = [band.getextrema() for band, name in zip(bands, image.getbands(), strict=True) if name != "A"]
    return max(float(max_value) for _, max_value in extrema if not isinstance(max_value, tuple))


def _convert_in_bands(image: Image.Image, *, inverted: bool) -> NDArray[np.uint8]:
    """Convert to RGB `[height, width, 3]`; large images are converted in bands."""
    image.load()
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return np.array(_to_rgb(image, inverted=inverted))
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(band, inverted=inverted))
    return pixels


def _to_rgb(image: Image.Image, *, inverted: bool) -> Image.Image:
    if inverted:
        image = ImageChops.invert(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _error_message(content: bytes, error: BaseException) -> str:
    if not content:
        return "is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more pixels than the limit of {MAX_PIXELS:,}"
    if isinstance(error, UnidentifiedImageError):
        formats = ", ".join(ending[1:] for ending in COMMON_ENDINGS)
        description = describe_content(content[:HEAD_BYTES])
        return f"is not an image in a supported format ({formats})" + (f", but {description}" if description else "")
    if isinstance(error, MemoryError):
        return "needs more memory than available"
    if "truncated" in str(error) or isinstance(error, EOFError):
        return "is a truncated image"
    return f"is a damaged image ({error})"
