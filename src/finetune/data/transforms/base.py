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
from finetune.data.transforms.augmentation import (
    AugmentationOptions,
    augment,
    augmentation_source_bytes,
    augmentation_source_side,
    downscale_for_augmentation,
)
from finetune.data.transforms.image import DECODING_DIFFERENCES, ImageGeometry, decode_image, resize_and_crop

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
            BadRecordError: the content cannot be decoded.
        """
        ...

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch with one row per example; without examples, a batch with no rows."""
        ...


class ImageTransform:
    """Encoded image to `pixels`, uint8 `[3, size, size]`; the model normalizes them on its device."""

    def __init__(
        self,
        geometry: ImageGeometry,
        augmentation: Augmentation,
        options: AugmentationOptions = AugmentationOptions(),  # noqa: B008  # immutable
    ) -> None:
        """Initialize the transform.

        Args:
            geometry: input geometry of the model.
            augmentation: augmentation to apply when randomness is given.
            options: its options.
        """
        self._geometry = geometry
        self._augmentation = augmentation
        self._options = options
        self._warned_names: set[str] = set()

    def _warn_once(self, name: str) -> None:
        """Warn once if decoding differs from other libraries."""
        if name not in self._warned_names:
            self._warned_names.add(name)
            logger.warning("%s", DECODING_DIFFERENCES[name])

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Decode the image, then augment it, or resize and crop it.

        Raises:
            BadRecordError: the image cannot be decoded.
        """
        return self.finish(self.decode(content, augmented=randomness is not None), randomness)

    def decode(self, content: Content, *, augmented: bool) -> Tensor:
        """Apply the part that is the same in every epoch: uint8 `[3, height, width]`, in channels-last memory format.

        Args:
            content: an encoded image.
            augmented: whether the image will be augmented.

        Raises:
            BadRecordError: the image cannot be decoded.
        """
        if not isinstance(content, bytes):
            raise TypeError("the content of an image must be bytes")
        geometry = self._geometry
        side, finish_function = geometry.decoded_side, resize_and_crop
        if augmented and self._augmentation != "none":
            side, finish_function = augmentation_source_side(geometry), downscale_for_augmentation
        pixels = decode_image(
            content,
            side,
            sixteen_bit_depth=geometry.sixteen_bit_depth,
            finish=lambda decoded: finish_function(decoded, geometry),
            report=self._warn_once,
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

    @property
    def augmentation_source_bytes(self) -> int:
        """Size in bytes of a decoded image that is yet to be augmented."""
        return augmentation_source_bytes(self._geometry)

    def finish(self, pixels: Tensor, randomness: random.Random | None) -> dict[str, Tensor]:
        """Make an example from the output of `decoded`, without modifying it."""
        if randomness is None or self._augmentation == "none":
            return {"pixels": pixels}
        return {"pixels": augment(pixels, self._geometry, self._augmentation, randomness, self._options)}

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack to `pixels` uint8 `[rows, 3, size, size]`, in channels-last memory format.

        Decoders and resizing return images with channels last, which is also fastest for convolutions; copying them in
        this format takes a quarter of the time of converting them.
        """
        if not examples:
            return {"pixels": torch.empty((0, 3, self._geometry.size, self._geometry.size), dtype=torch.uint8)}
        rows = [example["pixels"].permute(1, 2, 0) for example in examples]
        return {"pixels": torch.stack(rows).permute(0, 3, 1, 2)}
