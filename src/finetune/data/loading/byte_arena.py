"""Fixed-budget byte arena for cached data: host memory first, then an unnamed memory-mapped file."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch
from torch import Tensor

from finetune.runtime.mapped_file import map_temporary_file

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 64 * 2**20
"""Bytes allocated at a time: wastes little at the end of each segment, and growing moves no data."""


class ByteArena:
    """Allocates byte buffers up to a fixed limit. Thread-safe.

    The file is unlinked at once, so it does not outlive the process, even after a crash.
    """

    def __init__(self, memory_bytes: int, file_bytes: int = 0, folder: Path | None = None) -> None:
        """Initialize without allocating memory.

        Args:
            memory_bytes: limit for host memory, which is used first.
            file_bytes: limit for memory-mapped files in `folder`, used after that.
            folder: folder on the fastest local disk.
        """
        self._memory_left, self._file_left, self._folder = memory_bytes, file_bytes if folder else 0, folder
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._offset = 0
        self._lock = threading.Lock()

    def allocate(self, count: int) -> Tensor | None:
        """Allocate a uint8 tensor `[count]`; return `None` if the budget is exhausted."""
        with self._lock:
            if len(self._segment) - self._offset < count and not self._start_segment(count):
                return None
            self._offset += count
            return self._segment[self._offset - count : self._offset]

    def _start_segment(self, count: int) -> bool:
        """Start a segment of at least `count` bytes."""
        size = min(_SEGMENT_BYTES, self._memory_left)
        if size >= count:
            self._memory_left -= size
            self._segment, self._offset = torch.empty(size, dtype=torch.uint8), 0
            return True
        size = min(_SEGMENT_BYTES, self._file_left)
        segment = self._map_segment(size) if size >= count else None
        if segment is None:
            return False
        self._file_left -= size
        self._segment, self._offset = segment, 0
        return True

    def _map_segment(self, size: int) -> Tensor | None:
        """Map a segment of an unnamed file; return `None` if the disk is full."""
        assert self._folder is not None  # noqa: S101  # the file budget is 0 without a folder
        try:
            return map_temporary_file(self._folder, size, torch.uint8)
        except OSError as error:
            logger.warning("Cannot extend the cache in %s: %s", self._folder, error)
            self._file_left = 0
            return None
