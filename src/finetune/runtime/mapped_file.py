"""Tensors in temporary files that are mapped into memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def map_temporary_file(folder: Path, elements: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor `[elements]` in a new file without a name, whose space is freed together with the tensor.

    Raises:
        OSError: The file cannot be created, or the disk has no space for it.
    """
    descriptor, name = tempfile.mkstemp(prefix="cache-", dir=folder)
    try:
        try:
            _reserve_space(descriptor, elements * dtype.itemsize)
        finally:
            os.close(descriptor)
        return torch.from_file(name, shared=True, size=elements, dtype=dtype)
    finally:
        Path(name).unlink()


def _reserve_space(descriptor: int, size: int) -> None:
    """Reserve space, as writing to a mapped file on a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    # Without posix_fallocate, as on macOS, only written bytes occupy space.
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.write(descriptor, block[: size - start])
