"""From the bytes of a picture to the square of pixels that a network expects.

Evaluation, here and in the exported model, is exactly this:

1. open with Pillow, take one of `FORMATS`, refuse more than `MAX_PIXELS`;
2. a JPEG of which a half, a quarter or an eighth still has a shorter side of `SPARE` times the one that it is resized
   to is decoded at that scale, which its format offers at a fraction of the time (docs/decisions/reduced-jpeg.md);
3. first frame as 8-bit RGB by Pillow's `convert`; before, 16-bit grey is shifted down to its highest 8 of
   `sixteen_bit_depth` bits (of 16 where that is not known), transparency is laid on white, and a CMYK JPEG without
   Adobe's marker is inverted (Pillow takes all of them for Adobe's, which are inverted); 16-bit images that would be
   black are refused;
4. turn as the EXIF orientation says;
5. `torchvision.transforms.v2.functional.resize` of the shorter side, or of both, on uint8, antialiased;
6. `center_crop`, which pads with black where the picture is smaller.

Steps 5 and 6 are the geometry of torchvision's `weights.transforms()`, or of the image processor in a transformers
folder.
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

from finetune.data.bad_records import BadContent
from finetune.data.transforms.image_formats import COMMON_ENDINGS, HEAD_BYTES, describe_content

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read; Pillow knows more, but EPS for one would start another program."""

MAX_PIXELS = 100_000_000
"""More are refused before they are decoded; as RGB these are 300 MB."""

FULL_DEPTH = 16
"""Bits that 16-bit images use unless the data says otherwise."""

SPARE = 2
"""A picture decoded at a reduced scale has at least so many times the pixels per side that are needed."""

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258

_DECODING_BYTES = 1 << 30
"""Memory that large images may take while they are decoded, in all threads together."""
_BYTES_PER_PIXEL = 8
"""Memory that decoding takes: 4 bytes in Pillow, 3 as RGB, and the transform's own."""
_PROGRESSIVE_BYTES_PER_PIXEL = 6
"""Memory for the coefficients of a progressive JPEG, at whatever scale it is decoded."""
_SMALL_IMAGE_BYTES = 1 << 25
"""Images that take less are decoded without asking."""
_BAND_PIXELS = 1 << 22
"""Images with more pixels are converted to RGB in bands of so many, to the same values in less memory."""

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
"""What Pillow's parsers raise at content that is damaged or malicious."""

_QUIET = re.compile(r"PIL\.")
_QUIET_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How a picture becomes a square.

    Attributes:
        size: side of the square, in pixels.
        resize: length of the shorter side before the crop, in pixels; of both sides with `stretch`.
        interpolation: of the resize; always antialiased.
        sixteen_bit_depth: bits that 16-bit grey images use, see `decode_image`.
        stretch: whether the image is resized to a square, whatever its aspect ratio.
        floor_crop: whether half of an odd margin is rounded down, as in transformers, rather than to even, as in
            torchvision.
    """

    size: int
    resize: int
    interpolation: Interpolation
    sixteen_bit_depth: int | None = None
    stretch: bool = False
    floor_crop: bool = False

    @property
    def decoded_side(self) -> int | None:
        """Side for which a JPEG may be decoded at a reduced scale; `None` where every pixel has to be decoded.

        Nearest-neighbour interpolation picks single pixels, so an average in their place would be another image.
        """
        return None if self.interpolation.startswith("nearest") else self.resize


Notice = Callable[[str], None]
"""Takes the name of a way in which an image is decoded other than by `Image.convert("RGB")`, of `UNLIKE_OTHERS`."""

UNLIKE_OTHERS: Mapping[str, str] = {
    "transparency": "Images with transparency are laid on white, here and in the exported model. Pipelines of"
    " transformers and loaders of torchvision drop the transparency, which uncovers whatever color is below it.",
    "CMYK": "CMYK JPEGs without Adobe's marker are inverted, here and in the exported model, since Pillow reads them as"
    " negatives. Pipelines of transformers and loaders of torchvision leave them so.",
}


class _MemoryLimit:
    """Limits the memory of images that are decoded at the same time; thread-safe."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Wait until `count` bytes are free, or all of them where `count` is more, and hold them."""
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


DECODING_MEMORY = _MemoryLimit(_DECODING_BYTES)
"""Memory of the large images that are decoded now."""


def decode_image(
    content: bytes,
    side: int | None = None,
    *,
    sixteen_bit_depth: int | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    notice: Notice | None = None,
) -> Tensor:
    """Decode an image to uint8 RGB `[3, height, width]`, upright as its EXIF orientation says.

    Plain JPEG is decoded by torchvision, which is a fifth faster and gives the same bits; Pillow decides on the rest,
    and decodes what is reduced, which torchvision cannot. Several threads may call this; huge images wait until there
    is memory for them.

    Args:
        content: the encoded image.
        side: what the shorter side will be resized to; a much larger JPEG is decoded at a reduced scale. `None` for all
            pixels that there are.
        sixteen_bit_depth: bits that 16-bit grey images use: 12 where their values go to 4095. `None` where that is not
            known: they are taken to use all 16, and images that use less than a sixteenth of that range are refused.
        finish: applied to the result while the memory of a huge image is still held, such as a resize.
        notice: is called where the pixels differ from those that other libraries give.

    Raises:
        BadContent: no image, one that is damaged or truncated, one with more than `MAX_PIXELS`, or one with 16 bits
            whose values do not fit the depth.
    """
    keep_pillow_quiet()
    with ExitStack() as held:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image.width, image.height)
                full = image.size
                if side is not None:
                    image.draft(None, (SPARE * side, SPARE * side))
                held.enter_context(DECODING_MEMORY.reserve(_bytes_to_decode(image, full)))
                pixels = _jpeg_pixels(content, image) if image.size == full else None
                if pixels is None:
                    if notice is not None:
                        _give_notice(image, notice)
                    pixels = _pixels(image, content, sixteen_bit_depth)
                orientation = image.getexif().get(_ORIENTATION)
                image.close()
        except BadContent:
            raise
        except IMAGE_ERRORS as error:
            raise BadContent(_reason(content, error)) from error
        if orientation in _TURNS:
            pixels = _TURNS[orientation](pixels)
        return pixels if finish is None else finish(pixels)


def resize_and_crop(pixels: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resize the shorter side, then cut out the middle: uint8 `[3, height, width]` to `[3, size, size]`.

    Raises:
        BadContent: the picture is so narrow that resizing it would give more than `MAX_PIXELS`.
    """
    height, width = pixels.shape[-2:]
    sides = [geometry.resize] * (2 if geometry.stretch else 1)
    if not geometry.stretch and geometry.resize**2 * max(height, width) > MAX_PIXELS * min(height, width):
        raise BadContent(f"is {width} x {height} pixels, which is too narrow to be resized to {geometry.resize}")
    resized: Tensor = pixel_ops.resize(pixels, sides, InterpolationMode(geometry.interpolation), antialias=True)
    if geometry.floor_crop:
        # Without the last row or column of an odd margin, both halves are what rounding down gives.
        height, width = (side - max(0, side - geometry.size) % 2 for side in resized.shape[-2:])
        resized = resized[..., :height, :width]
    cropped: Tensor = pixel_ops.center_crop(resized, [geometry.size, geometry.size])
    return cropped


def keep_pillow_quiet() -> None:
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


def _bytes_to_decode(image: ImageFile.ImageFile, full: tuple[int, int]) -> int:
    coefficients = full[0] * full[1] * _PROGRESSIVE_BYTES_PER_PIXEL if "progressive" in image.info else 0
    return image.width * image.height * _BYTES_PER_PIXEL + coefficients


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


def _give_notice(image: Image.Image, notice: Notice) -> None:
    """Say in which way of `UNLIKE_OTHERS` an image is decoded, if in any."""
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        notice("CMYK")
    elif image.has_transparency_data and (image.mode != "RGBA" or image.getchannel("A").getextrema() != (255, 255)):
        notice("transparency")


def _pixels(image: ImageFile.ImageFile, content: bytes, depth: int | None) -> Tensor:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = _highest_bits(np.asarray(image), depth)
        return torch.from_numpy(np.repeat(grey[:, :, None], 3, axis=2)).permute(2, 0, 1)
    if image.mode in ("I", "F"):
        raise BadContent("has 32-bit or signed pixels, whose range is not defined; save it with 8 or 16 bits")
    if _is_16_bit_colour(image, content) and _highest_colour(image) < 1 << 4:
        raise BadContent(
            "has 16 bits per colour but hardly a value above 4095, so it would be black; save it with 8 bits per colour"
        )
    inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    return torch.from_numpy(_in_bands(image, inverted=inverted)).permute(2, 0, 1)


def _highest_bits(values: NDArray[np.integer], known_depth: int | None) -> NDArray[np.uint8]:
    highest = int(values.max())
    depth = known_depth or FULL_DEPTH
    least = 1 << (depth - 8 if known_depth else depth - 4)
    if highest >> depth:
        raise BadContent(
            f"has 16-bit pixels with values up to {highest}, but those of the training images end at {2**depth - 1};"
            " save it with the same range"
        )
    if 0 < highest < least:
        raise BadContent(
            f"has 16-bit pixels with values up to {highest} only, which are black in the range 0 to {2**depth - 1};"
            " save it with 8 bits, or scale its values"
        )
    return (values >> (depth - 8)).astype(np.uint8)


def _is_16_bit_colour(image: ImageFile.ImageFile, content: bytes) -> bool:
    """Whether Pillow dropped the low byte of every value, as it does for colour with 16 bits."""
    if image.format == "PNG":
        return content[24:25] == b"\x10"
    if image.format == "PPM":
        arguments = image.tile[0].args if image.tile else ()
        return isinstance(arguments, tuple) and any(isinstance(one, int) and one > 255 for one in arguments)
    tags = getattr(image, "tag_v2", None)
    return image.format == "TIFF" and tags is not None and max(tags.get(_BITS_PER_SAMPLE, (8,))) == FULL_DEPTH


def _highest_colour(image: Image.Image) -> float:
    """Highest value of the bands other than alpha."""
    bands = image.split() if len(image.getbands()) > 1 else (image,)
    extrema = [band.getextrema() for band, name in zip(bands, image.getbands(), strict=True) if name != "A"]
    return max(float(high) for _, high in extrema if not isinstance(high, tuple))


def _in_bands(image: Image.Image, *, inverted: bool) -> NDArray[np.uint8]:
    """Convert to RGB `[height, width, 3]`, a large image band by band."""
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


def _reason(content: bytes, error: BaseException) -> str:
    if not content:
        return "is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than the {MAX_PIXELS:,} pixels that are decoded"
    if isinstance(error, UnidentifiedImageError):
        known = ", ".join(ending[1:] for ending in COMMON_ENDINGS)
        found = describe_content(content[:HEAD_BYTES])
        return f"is no image of a known format ({known}), " + (f"but {found}" if found else "or of a kind not known")
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if "truncated" in str(error) or isinstance(error, EOFError):
        return "is an image that is cut off"
    return f"is a damaged image ({error})"
