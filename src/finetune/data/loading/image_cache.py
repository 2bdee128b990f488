"""Caches decoded images for later epochs."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from torch import Tensor

from finetune.data.loading.byte_arena import ByteArena
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform

logger = logging.getLogger(__name__)


class DecodedImageCache:
    """Image examples with a cache: images are decoded and resized on first use, and cached while the budget lasts.

    The cache holds the transform's output before any random operation. Examples are made from cached and from newly
    decoded images in the same way, so caching does not change a bit. Thread-safe.
    """

    def __init__(self, transform: ImageTransform, arena: ByteArena, purpose: str) -> None:
        """Initialize with an empty cache.

        Args:
            transform: makes examples.
            arena: allocates the cached images.
            purpose: use of the images, for log messages.
        """
        self._transform = transform
        self._arena = arena
        self._purpose = purpose
        self._images: dict[int, Tensor] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_full = False

    def __len__(self) -> int:
        """Number of cached images."""
        return len(self._images)

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make the example of the image at a position; `read` returns its bytes and is called only if needed.

        Raises:
            BadContent: the image cannot be decoded.
            DataError: the image cannot be read.
        """
        image = self._images.get(position)
        if image is None:
            image = self._transform.decode(read(), augmented=randomness is not None)
            self._cache(position, image)
        return self._transform.finish(image, randomness)

    def _cache(self, position: int, image: Tensor) -> None:
        rows = image.permute(1, 2, 0)
        buffer = self._arena.allocate(rows.numel())
        if buffer is None:
            self._log_full()
            return
        cached = buffer.view(rows.shape)
        cached.copy_(rows)
        with self._lock:
            self._bytes += len(buffer)
            self._images[position] = cached.permute(2, 0, 1)

    def _log_full(self) -> None:
        with self._lock:
            was_full, self._is_full = self._is_full, True
        if not was_full:
            logger.info(
                "Cached %d decoded images for %s (%.2f GB); the cache is full, so the other images are decoded in every"
                " epoch (see cache_size_gb).",
                len(self),
                self._purpose,
                self._bytes / 1e9,
            )
