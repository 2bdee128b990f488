"""Detects the types of files in a model folder from their first bytes, independent of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

FileType = Literal[
    "safetensors",
    "torch",
    "gzip",
    "bzip2",
    "xz",
    "tar",
    "ZIP",
    "Zstandard",
    "Git LFS pointer",
    "HDF5",
    "GGUF",
    "HTML or XML page",
    "unknown",
]
# ZIP and Zstandard are recognized for error messages, but not read.
ARCHIVES: frozenset[FileType] = frozenset({"gzip", "bzip2", "xz", "tar", "ZIP", "Zstandard"})
WEIGHTS: frozenset[FileType] = frozenset({"safetensors", "torch"})

_HEADER_BYTES = 512
# Pickle protocol 2 with the magic number of torch files older than the ZIP format.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAGIC: tuple[tuple[bytes, FileType], ...] = (
    (_OLD_TORCH, "torch"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"version https://git-lfs.github.com/spec/", "Git LFS pointer"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"GGUF", "GGUF"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def file_type(path: Path) -> FileType:
    """Return the type of a regular file, from its first 512 bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head.startswith(b"PK\x03\x04"):
        member = _first_member(head)
        return "torch" if member.endswith(b"data.pkl") else "ZIP" if member else "unknown"
    if head[257:262] == b"ustar":
        return "tar"
    if head.lstrip().lower().startswith(_PAGES):
        return "HTML or XML page"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8:
        return "safetensors"
    return "unknown"


def describe_wrong_content(path: Path) -> str | None:
    """Return why a file named like weights contains none, with the remedy; None if there is no such reason."""
    match file_type(path):
        case "Git LFS pointer":
            return (
                f"{path.name} is a Git LFS pointer of {path.stat().st_size} bytes, not the file itself:"
                " run `git lfs pull` in the clone, and upload the files that it fetches."
            )
        case "HTML or XML page":
            return f"{path.name} is an HTML or XML page, such as a server's error message: download the file again."
        case "HDF5":
            return (
                f"{path.name} is an HDF5 file of Keras or TensorFlow, which is not supported: provide PyTorch weights."
            )
        case "GGUF":
            return f"{path.name} is a GGUF file for llama.cpp, which is not supported: provide the original weights."
        case "ZIP" | "Zstandard" as kind:
            return f"{path.name} is a {kind} archive, which is not supported: provide a tar file, compressed by gzip."
    return None


def _first_member(head: bytes) -> bytes:
    """Return the name of the first member of a ZIP file; torch writes `<name>/data.pkl` first."""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")]
