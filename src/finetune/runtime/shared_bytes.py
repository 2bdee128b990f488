"""Bytes that several processes of a host map into memory, so that the host holds a single copy."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Scalar = TypeVar("_Scalar", bound=np.generic)


def create_unnamed_file(size: int, folder: Path | None) -> int:
    """Return the descriptor of a file without a name, in memory or in a folder; written bytes alone occupy space.

    Raises:
        OSError: The file cannot be created.
    """
    if folder is None:
        descriptor = os.memfd_create("finetune-cache")
    else:
        descriptor, name = tempfile.mkstemp(prefix="cache-", dir=folder)
        Path(name).unlink()
    os.truncate(descriptor, size)
    return descriptor


class SharedBytes:
    """Bytes in an unnamed file, mapped into memory; freed with the last process, array and tensor that uses them.

    Attributes:
        size: Number of bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the file; the descriptor belongs to this object from now on.

        Raises:
            OSError: The file cannot be mapped.
        """
        self.size = size
        self._descriptor = descriptor
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, descriptor)
        self._map = mmap.mmap(descriptor, size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude the other processes, and the other threads of this one, from blocks under this lock."""
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def reserve(self, start: int, size: int) -> None:
        """Reserve disk space, since writing to a mapped file on a full disk would kill the process.

        Raises:
            OSError: The disk has no space.
        """
        if size:
            os.posix_fallocate(self._descriptor, start, size)

    def array(self, dtype: type[_Scalar], count: int, start: int = 0) -> NDArray[_Scalar]:
        """Return `count` elements from byte `start` on."""
        return np.frombuffer(self._map, dtype, count, start)

    def tensor(self, dtype: torch.dtype, shape: Sequence[int], start: int = 0) -> Tensor:
        """Return a tensor of the elements from byte `start` on."""
        count = math.prod(shape)
        if not count:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(tuple(shape))
