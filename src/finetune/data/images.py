"""From the bytes of a picture to the square of pixels that a network expects.

Evaluation, here and in the exported model, is exactly this:

1. open with Pillow, take one of `FORMATS`, refuse more than `MAX_PIXELS`;
2. a JPEG of which a half, a quarter or an eighth still has a shorter side of `SPARE` times the one that it is resized
   to is decoded at that scale, which its format offers at a fraction of the time (docs/decisions/reduced-jpeg.md);
3. first frame as 8-bit RGB by Pillow's `convert`; before, 16-bit grey loses its low byte, transparency is laid on
   white, and a CMYK JPEG without Adobe's marker is inverted (Pillow takes all of them for Adobe's, which are inverted);
4. turn as the EXIF orientation says;
5. `torchvision.transforms.v2.functional.resize` of the shorter side, on uint8, antialiased;
6. `center_crop`, which pads with black where the picture is smaller.

Steps 5 and 6 are the geometry of torchvision's `weights.transforms()`.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixel_ops

from finetune.data.bad_records import BadContent

Interpolation = Literal["nearest", "bilinear", "bicubic"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is read; Pillow knows more, but EPS for one would start another program."""

MAX_PIXELS = 100_000_000
"""More are refused before they are decoded; as RGB these are 300 MB."""

SPARE = 2
"""A picture decoded at a reduced scale has at least so many times the pixels per side that are needed."""

_ORIENTATION = 0x0112

_TURNS: Mapping[object, Callable[[Tensor], Tensor]] = {
    2: lambda pixels: pixels.flip(-1),
    3: lambda pixels: pixels.flip(-1, -2),
    4: lambda pixels: pixels.flip(-2),
    5: lambda pixels: pixels.mT,
    6: lambda pixels: pixels.mT.flip(-1),
    7: lambda pixels: pixels.mT.flip(-1, -2),
    8: lambda pixels: pixels.mT.flip(-2),
}
"""By EXIF orientation; 1 and anything that is not defined leave the picture as it is."""

_PILLOW_REFUSES = (
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
"""What Pillow's parsers raise at content that is damaged or malicious."""

_QUIET = re.compile(r"PIL\.")
_QUIET_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How a picture becomes a square.

    Attributes:
        size: side of the square, in pixels.
        resize: length of the shorter side before the crop, in pixels.
        interpolation: of the resize; always antialiased.
    """

    size: int
    resize: int
    interpolation: Interpolation


def decode_image(content: bytes, side: int | None = None) -> Tensor:
    """Decode a picture to uint8 RGB `[3, height, width]`, upright as its EXIF orientation says.

    Plain JPEG is decoded by torchvision, which is a fifth faster and gives the same bits; Pillow decides on the rest,
    and decodes what is reduced, which torchvision cannot.

    Args:
        content: the encoded picture.
        side: what the shorter side will be resized to; a much larger JPEG is decoded at a reduced scale. `None` for all
            pixels that there are.

    Raises:
        BadContent: no picture, one that is damaged or truncated, or one with more than `MAX_PIXELS`.
    """
    _keep_pillow_quiet()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.width, image.height)
            full = image.size
            if side is not None:
                image.draft(None, (SPARE * side, SPARE * side))
            pixels = _jpeg_pixels(content, image) if image.size == full else None
            if pixels is None:
                pixels = _pixels(image)
            orientation = image.getexif().get(_ORIENTATION)
    except BadContent:
        raise
    except _PILLOW_REFUSES as error:
        raise BadContent(_reason(content, error)) from error
    return _TURNS[orientation](pixels) if orientation in _TURNS else pixels


def resize_and_crop(pixels: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resize the shorter side, then cut out the middle: uint8 `[3, height, width]` to `[3, size, size]`.

    Raises:
        BadContent: the picture is so narrow that resizing it would give more than `MAX_PIXELS`.
    """
    height, width = pixels.shape[-2:]
    if geometry.resize**2 * max(height, width) > MAX_PIXELS * min(height, width):
        raise BadContent(f"is {width} x {height} pixels, which is too narrow to be resized to {geometry.resize}")
    resized: Tensor = pixel_ops.resize(
        pixels, [geometry.resize], InterpolationMode(geometry.interpolation), antialias=True
    )
    cropped: Tensor = pixel_ops.center_crop(resized, [geometry.size, geometry.size])
    return cropped


def _keep_pillow_quiet() -> None:
    """Ignore warnings that Pillow issues about content, such as odd EXIF data.

    `warnings.catch_warnings` is no help: it swaps a list of the whole process and is not safe in threads.
    """
    if not any(entry[3] == _QUIET for entry in warnings.filters):
        with _QUIET_LOCK:
            warnings.filterwarnings("ignore", module=_QUIET.pattern)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadContent(f"has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise BadContent(f"claims {width} x {height} pixels, more than the {MAX_PIXELS:,} that are decoded")


def _jpeg_pixels(content: bytes, image: ImageFile.ImageFile) -> Tensor | None:
    """Decode plain JPEG; `None` where it is none, or damaged: then Pillow has the last word.

    Also where it is progressive: of one that ends early the two libraries make other pixels, without a word.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or "progressive" in image.info:
        return None
    try:
        # bytearray: torch warns of a buffer that it could not write to.
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels


def _pixels(image: Image.Image) -> Tensor:
    if image.mode in ("I", "F"):
        raise BadContent("has 32-bit pixels, whose range is not defined; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _reason(content: bytes, error: BaseException) -> str:
    if not content:
        return "is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than the {MAX_PIXELS:,} pixels that are decoded"
    if isinstance(error, UnidentifiedImageError):
        return "is no image of a known format (jpg, png, webp, bmp, gif or tiff)"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if "truncated" in str(error) or isinstance(error, EOFError):
        return "is an image that is cut off"
    return f"is a damaged image ({error})"
