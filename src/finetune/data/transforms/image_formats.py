"""The image formats that are read: names of files, first bytes, and names for content that is something else."""

from __future__ import annotations

import re

IMAGE_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
    }
)
"""Endings of files that are taken for images without a look at their content."""

COMMON_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""The endings that messages name."""

HEAD_BYTES = 32
"""How many of the first bytes `is_image` and `describe_content` look at."""

_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)
_BITMAP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_NETPBM = re.compile(rb"P[1-6](?:\s+\d|\s*#)|P[fF]\s+\d")
_RAW_PHOTOS = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".nef", ".nrw", ".orf", ".pef", ".rw2", ".srw"}
)
"""Camera formats that are TIFF by their first bytes, of which Pillow would read the small preview."""

_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
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
    """Whether content begins as one of the formats that are read.

    Args:
        head: at least the first `HEAD_BYTES` of the content, or all of it.
    """
    if head.startswith(_BEGINNINGS):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BITMAP_HEADER_SIZES
    return _NETPBM.match(head) is not None


def is_raw_photo(ending: str) -> bool:
    """Whether an ending, in lower case with its dot, is that of a camera format whose content begins as TIFF."""
    return ending in _RAW_PHOTOS


def describe_content(head: bytes) -> str | None:
    """Name well-known content that is no image that can be read, such as `a HEIC image`; `None` for anything else."""
    return next((name for pattern, name in _OTHERS if pattern.match(head)), None)
