"""Accepted image formats: file extensions and signatures, and names of other well-known content."""

from __future__ import annotations

import re

IMAGE_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
    }
)
"""Extensions of files that are treated as images without reading their content."""

COMMON_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""Extensions listed in messages."""

HEAD_BYTES = 32
"""Number of leading bytes that `is_image` and `describe_content` inspect."""

_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)
_BITMAP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_NETPBM = re.compile(rb"P[1-6](?:\s+\d|\s*#)|P[fF]\s+\d")
_RAW_PHOTOS = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".nef", ".nrw", ".orf", ".pef", ".rw2", ".srw"}
)
"""Camera formats with a TIFF signature, of which Pillow would read only the small preview."""

_UNSUPPORTED_CONTENT: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "a HEIC image"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "an AVIF image"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL), "a video"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    (re.compile(rb"8BPS"), "a Photoshop document"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer instead of the file (run `git lfs pull`)"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:svg|\?xml)", re.IGNORECASE), "an SVG or XML document"),
)


def is_image(head: bytes) -> bool:
    """Return whether content has the signature of an accepted format.

    Args:
        head: at least the first `HEAD_BYTES` of the content, or all of it.
    """
    if head.startswith(_SIGNATURES):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BITMAP_HEADER_SIZES
    return _NETPBM.match(head) is not None


def is_raw_photo(ending: str) -> bool:
    """Return whether an extension (lower case, with dot) is that of a camera format with a TIFF signature."""
    return ending in _RAW_PHOTOS


def describe_content(head: bytes) -> str | None:
    """Name well-known content that is not an accepted image, such as `a HEIC image`; `None` for anything else."""
    return next((name for pattern, name in _UNSUPPORTED_CONTENT if pattern.match(head)), None)
