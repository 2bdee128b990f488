"""Storage of decoded images by position, in this process or shared by the processes of a host."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.data.loading.byte_arena import ByteArena
from finetune.runtime.shared_bytes import SharedBytes

logger = logging.getLogger(__name__)

_RESERVED_BYTES = 64 * 2**20
"""Disk space reserved at a time."""
_COUNTERS = 4


class ImageStorage(Protocol):
    """Stores images within a budget. Thread-safe."""

    def __len__(self) -> int:
        """Number of stored images."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes of the stored images."""
        ...

    def get(self, position: int) -> Tensor | None:
        """Return the image at a position, uint8 `[height, width, 3]`; `None` if it is not stored."""
        ...

    def put(self, position: int, image: Tensor) -> bool:
        """Store a copy of an image, uint8 `[height, width, 3]`; return whether there was space for it."""
        ...


class PrivateImages:
    """Images stored by this process for itself."""

    def __init__(self, arena: ByteArena) -> None:
        """Initialize without images; `arena` allocates them."""
        self.used_bytes = 0
        self._arena = arena
        self._images: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of stored images."""
        return len(self._images)

    def get(self, position: int) -> Tensor | None:
        """Return the image at a position."""
        return self._images.get(position)

    def put(self, position: int, image: Tensor) -> bool:
        """Store a copy of an image if there is space for it."""
        buffer = self._arena.allocate(image.numel())
        if buffer is None:
            return False
        stored = buffer.view(image.shape)
        stored.copy_(image)
        with self._lock:
            self.used_bytes += len(buffer)
            self._images[position] = stored
        return True


class SharedImages:
    """Images that the processes of a host store for each other.

    One byte per image tells whether it is stored, and is set last. Only the allocation is exclusive: if two processes
    decode the same image at the same time, both store the same bits.
    """

    def __init__(self, index: SharedBytes, memory: SharedBytes, disk: SharedBytes, count: int) -> None:
        """Initialize from shared bytes that are zero before the first use.

        Args:
            index: as many bytes as `required_bytes` returns.
            memory: bytes for images, which are used first.
            disk: bytes for images in a file, used after that.
            count: number of positions.
        """
        self._index, self._memory, self._disk = index, memory, disk
        self._used = index.array(np.int64, _COUNTERS)
        self._begins = index.array(np.int64, count, 8 * _COUNTERS)
        self._shapes = index.array(np.int32, 2 * count, 8 * (_COUNTERS + count)).reshape(count, 2)
        self._stored = index.array(np.uint8, count, 8 * (_COUNTERS + 2 * count))

    @staticmethod
    def required_bytes(count: int) -> int:
        """Return the number of bytes of an index."""
        return 8 * (_COUNTERS + 2 * count) + count

    def __len__(self) -> int:
        """Number of stored images."""
        return int(np.count_nonzero(self._stored))

    @property
    def used_bytes(self) -> int:
        """Bytes of the stored images, in memory and on disk."""
        return int(self._used[:2].sum())

    def get(self, position: int) -> Tensor | None:
        """Return the image at a position."""
        if not self._stored[position]:
            return None
        return self._at(int(self._begins[position]), (*self._shapes[position].tolist(), 3))

    def put(self, position: int, image: Tensor) -> bool:
        """Store a copy of an image if there is space for it."""
        begin = self._claim(image.numel())
        if begin is None:
            return False
        self._at(begin, tuple(image.shape)).copy_(image)
        self._begins[position], self._shapes[position] = begin, image.shape[:2]
        self._stored[position] = 1
        return True

    def _at(self, begin: int, shape: tuple[int, ...]) -> Tensor:
        source, start = (self._memory, begin) if begin < self._memory.size else (self._disk, begin - self._memory.size)
        return source.tensor(torch.uint8, shape, start)

    def _claim(self, count: int) -> int | None:
        """Return where an image of `count` bytes begins in memory followed by the file; `None` if it does not fit."""
        with self._index.locked():
            in_memory, on_disk, reserved, disk_is_full = map(int, self._used)
            if in_memory + count <= self._memory.size:
                self._used[0] += count
                return in_memory
            end = on_disk + count
            if disk_is_full or end > self._disk.size or (end > reserved and not self._reserve(reserved, end)):
                return None
            self._used[1] = end
            return self._memory.size + on_disk

    def _reserve(self, reserved: int, end: int) -> bool:
        """Reserve disk space up to byte `end` and somewhat more; return whether there is enough."""
        size = min(max(_RESERVED_BYTES, end - reserved), self._disk.size - reserved)
        try:
            self._disk.reserve(reserved, size)
        except OSError as error:
            logger.warning("Cannot extend the cache of decoded images: %s", error)
            self._used[3] = 1
            return False
        self._used[2] = reserved + size
        return True
