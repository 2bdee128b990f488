"""Caches decoded images for later epochs."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from torch import Tensor

from finetune.data.loading.image_storage import ImageStorage
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform

logger = logging.getLogger(__name__)


class DecodedImageCache:
    """Image examples with a cache: images are decoded and resized on first use, and cached while the budget lasts.

    The cache holds the transform's output before any random operation. Examples are made from cached and from newly
    decoded images in the same way, so caching does not change a bit. Thread-safe.
    """

    def __init__(self, transform: ImageTransform, storage: ImageStorage, purpose: str) -> None:
        """Initialize the cache.

        Args:
            transform: makes examples.
            storage: stores the images.
            purpose: use of the images, for log messages.
        """
        self._transform = transform
        self._storage = storage
        self._purpose = purpose
        self._lock = threading.Lock()
        self._is_full = False

    def __len__(self) -> int:
        """Number of cached images."""
        return len(self._storage)

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make the example of the image at a position; `read` returns its bytes and is called only if needed.

        Raises:
            BadContent: the image cannot be decoded.
            DataError: the image cannot be read.
        """
        stored = self._storage.get(position)
        if stored is not None:
            return self._transform.finish(stored.permute(2, 0, 1), randomness)
        image = self._transform.decode(read(), augmented=randomness is not None)
        if not self._storage.put(position, image.permute(1, 2, 0)):
            self._log_full()
        return self._transform.finish(image, randomness)

    def _log_full(self) -> None:
        with self._lock:
            was_full, self._is_full = self._is_full, True
        if not was_full:
            logger.info(
                "Cached %d decoded images for %s (%.2f GB); the cache is full, so the other images are decoded in every"
                " epoch (see cache_size_gb).",
                len(self),
                self._purpose,
                self._storage.used_bytes / 1e9,
            )
