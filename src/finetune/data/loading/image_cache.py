"""Caches decoded images for later epochs."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from torch import Tensor

from finetune.data.loading.byte_arena import Room
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform

logger = logging.getLogger(__name__)


class KeptPictures:
    """Image examples with a cache: images are decoded and resized on first use, and cached while the budget lasts.

    The cache holds the transform's output before any random operation. Examples are made from cached and from newly
    decoded images in the same way, so caching does not change a bit. Thread-safe.
    """

    def __init__(self, transform: ImageTransform, room: Room, purpose: str) -> None:
        """Initialize with an empty cache.

        Args:
            transform: makes examples.
            room: allocates the cached images.
            purpose: use of the images, for log messages.
        """
        self._transform = transform
        self._room = room
        self._purpose = purpose
        self._pictures: dict[int, Tensor] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_full = False

    def __len__(self) -> int:
        """Number of cached images."""
        return len(self._pictures)

    def example(
        self, position: int, read: Callable[[], Content], randomness: random.Random | None
    ) -> dict[str, Tensor]:
        """Make the example of the image at a position; `read` returns its bytes and is called only if needed.

        Raises:
            BadContent: the image cannot be decoded.
            DataError: the image cannot be read.
        """
        picture = self._pictures.get(position)
        if picture is None:
            picture = self._transform.decoded(read(), varied=randomness is not None)
            self._keep(position, picture)
        return self._transform.finished(picture, randomness)

    def _keep(self, position: int, picture: Tensor) -> None:
        rows = picture.permute(1, 2, 0)
        piece = self._room.take(rows.numel())
        if piece is None:
            self._tell_full()
            return
        kept = piece.view(rows.shape)
        kept.copy_(rows)
        with self._lock:
            self._bytes += len(piece)
            self._pictures[position] = kept.permute(2, 0, 1)

    def _tell_full(self) -> None:
        with self._lock:
            told, self._is_full = self._is_full, True
        if not told:
            logger.info(
                "%d decoded pictures for %s are kept (%.2f GB); there is no room for more, which are decoded in every"
                " epoch (cache_size_gb).",
                len(self),
                self._purpose,
                self._bytes / 1e9,
            )
