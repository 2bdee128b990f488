"""Where do bytes lie that are kept for later epochs: in memory, and behind that in a file that is mapped into it?"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_SEGMENT = 64 * 2**20
"""Bytes that are asked for together: little is left over at the end of each, and nothing is moved when more come."""


class Room:
    """Gives out pieces of memory until a limit is reached. Safe to use from several threads.

    The file has no name, so that nothing stays behind, whatever ends the process.
    """

    def __init__(self, memory_bytes: int, file_bytes: int = 0, folder: Path | None = None) -> None:
        """Reserve nothing yet.

        Args:
            memory_bytes: that may be taken of the host's memory, first.
            file_bytes: that may be taken in `folder`, then.
            folder: on the fastest local disk.
        """
        self._memory, self._file, self._folder = memory_bytes, file_bytes if folder else 0, folder
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._next = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> Tensor | None:
        """Give a piece, uint8 `[count]`; `None` where there is no room for it."""
        with self._lock:
            if len(self._segment) - self._next < count and not self._open(count):
                return None
            self._next += count
            return self._segment[self._next - count : self._next]

    def _open(self, count: int) -> bool:
        """Begin a segment that `count` bytes fit into."""
        size = min(_SEGMENT, self._memory)
        if size >= count:
            self._memory -= size
            self._segment, self._next = torch.empty(size, dtype=torch.uint8), 0
            return True
        size = min(_SEGMENT, self._file)
        segment = self._mapped(size) if size >= count else None
        if segment is None:
            return False
        self._file -= size
        self._segment, self._next = segment, 0
        return True

    def _mapped(self, size: int) -> Tensor | None:
        """A part of an unnamed file; none where the disk has no room for it."""
        assert self._folder is not None  # noqa: S101  # there are no bytes without it
        path = self._folder / f"kept-{os.getpid()}-{id(self)}"
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        except OSError as error:
            logger.warning("No more is kept in %s: %s", self._folder, error)
            self._file = 0
            return None
        finally:
            path.unlink(missing_ok=True)
