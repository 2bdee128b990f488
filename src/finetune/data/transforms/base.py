"""Transforms from the content of a record to an example, and from examples to a batch."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from finetune.config.hyperparameters import Augmentation
from finetune.data.record import Content
from finetune.data.transforms.augmentation import augment, before_augmenting, side_before_augmenting
from finetune.data.transforms.image import UNLIKE_OTHERS, ImageGeometry, decode_image, resize_and_crop

__all__ = ["ImageGeometry", "ImageTransform", "Transform"]


logger = logging.getLogger(__name__)


class Transform(Protocol):
    """Makes examples and batches. Thread-safe."""

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Make an example; the result depends only on the arguments.

        Args:
            content: content of a record of the transform's task.
            randomness: source of random numbers for augmentation; `None` disables augmentation.

        Raises:
            BadContent: the content cannot be decoded.
        """
        ...

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch with one row per example; without examples, a batch with no rows."""
        ...


class ImageTransform:
    """Encoded image to `pixels`, uint8 `[3, size, size]`; the model normalizes them on its device."""

    def __init__(self, geometry: ImageGeometry, augmentation: Augmentation) -> None:
        """Initialize the transform.

        Args:
            geometry: input geometry of the model.
            augmentation: augmentation to apply when randomness is given.
        """
        self._geometry = geometry
        self._augmentation = augmentation
        self._noticed: set[str] = set()

    def _notice(self, name: str) -> None:
        """Warn once if decoding differs from other libraries."""
        if name not in self._noticed:
            self._noticed.add(name)
            logger.warning("%s", UNLIKE_OTHERS[name])

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Decode the image, then augment it, or resize and crop it.

        Raises:
            BadContent: the image cannot be decoded.
        """
        return self.finished(self.decoded(content, varied=randomness is not None), randomness)

    def decoded(self, content: Content, *, varied: bool) -> Tensor:
        """Apply the part that is the same in every epoch: uint8 `[3, height, width]`, in channels-last memory format.

        Args:
            content: an encoded image.
            varied: whether the image will be augmented.

        Raises:
            BadContent: the image cannot be decoded.
        """
        if not isinstance(content, bytes):
            raise TypeError("a picture is bytes")
        geometry = self._geometry
        side, finish = geometry.decoded_side, resize_and_crop
        if varied and self._augmentation != "none":
            side, finish = side_before_augmenting(geometry), before_augmenting
        pixels = decode_image(
            content,
            side,
            sixteen_bit_depth=geometry.sixteen_bit_depth,
            finish=lambda decoded: finish(decoded, geometry),
            notice=self._notice,
        )
        # Same memory format as in the cache, because the format may select a different resize kernel.
        return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    @property
    def sixteen_bit_depth(self) -> int | None:
        """Number of bits that 16-bit grayscale images use, if known."""
        return self._geometry.sixteen_bit_depth

    @property
    def example_bytes(self) -> int:
        """Size of an example in bytes."""
        return 3 * self._geometry.size**2

    def finished(self, pixels: Tensor, randomness: random.Random | None) -> dict[str, Tensor]:
        """Make an example from the output of `decoded`, without modifying it."""
        if randomness is None or self._augmentation == "none":
            return {"pixels": pixels}
        return {"pixels": augment(pixels, self._geometry, self._augmentation, randomness)}

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack to `pixels` uint8 `[rows, 3, size, size]`, in channels-last memory format.

        Decoders and resizing return images with channels last, which is also fastest for convolutions; copying them in
        this format takes a quarter of the time of converting them.
        """
        if not examples:
            return {"pixels": torch.empty((0, 3, self._geometry.size, self._geometry.size), dtype=torch.uint8)}
        rows = [example["pixels"].permute(1, 2, 0) for example in examples]
        return {"pixels": torch.stack(rows).permute(0, 3, 1, 2)}
