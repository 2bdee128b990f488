"""Writes safetensors files under a given name, hashed while writing, and reads them.

The safetensors library first writes to a hidden file next to the target, which the platform's sync agent would copy as
data, and reports a full disk without an error number. The format consists of a length, a JSON header and the bytes, so
writing is implemented here; reading uses the library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Expected size of a file in bytes and SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


class HashedFile:
    """New file that is flushed to the disk when the `with` block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(content)
        self._hash.update(view)
        self._file.write(view)
        self._size += view.nbytes

    def entry(self) -> FileEntry:
        """Return size and hash of the content so far."""
        return FileEntry(self._size, self._hash.hexdigest())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Write CPU tensors to a new safetensors file and flush it to the disk.

    Raises:
        TypeError: The format does not support a tensor's dtype.
        OSError: The disk is full or fails.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    with HashedFile(path) as file:
        file.write(_header(ordered))
        for _, tensor in ordered:
            for chunk in _chunks(tensor):
                file.write(chunk)
        return file.entry()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file into newly allocated memory.

    Raises:
        safetensors.SafetensorError: The file is not valid.
        OSError: The file cannot be read.
    """
    with safe_open(path, framework="pt", backend="pread") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(tensors: list[tuple[str, Tensor]]) -> bytes:
    """Return length and JSON, padded so that the largest dtypes, which come first, are aligned to their size."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors:
        if tensor.dtype not in _DTYPE_NAMES:
            raise TypeError(f"tensor {name!r} has dtype {tensor.dtype}, which safetensors does not support")
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    body = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes in row-major order, in chunks that stay in the CPU cache between hash and write."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES].data
