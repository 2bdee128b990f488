"""What makes an example of a record's content, and a batch of examples?"""

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
    """Makes examples and batches. Safe to call from several threads."""

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Make an example; the result depends on nothing but the arguments.

        Args:
            content: of a record of the task that the transform is for.
            randomness: where augmentation draws its numbers; `None` means no augmentation.

        Raises:
            BadContent: the content cannot be decoded.
        """
        ...

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch with one row for each example; of no examples, one with no rows."""
        ...


class ImageTransform:
    """Encoded picture to `pixels`, uint8 `[3, size, size]`; the network normalises them on its device."""

    def __init__(self, geometry: ImageGeometry, augmentation: Augmentation) -> None:
        """Fix what every picture goes through.

        Args:
            geometry: what the network expects.
            augmentation: what is done to a picture where there is randomness.
        """
        self._geometry = geometry
        self._augmentation = augmentation
        self._noticed: set[str] = set()

    def _notice(self, name: str) -> None:
        """Warn once of a way of decoding that differs from that of other libraries."""
        if name not in self._noticed:
            self._noticed.add(name)
            logger.warning("%s", UNLIKE_OTHERS[name])

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Decode, then augment or else resize and crop.

        Raises:
            BadContent: the picture cannot be decoded.
        """
        return self.finished(self.decoded(content, varied=randomness is not None), randomness)

    def decoded(self, content: Content, *, varied: bool) -> Tensor:
        """Do what is the same in every epoch: uint8 `[3, height, width]`, in memory channels last.

        Args:
            content: an encoded picture.
            varied: whether it will be augmented.

        Raises:
            BadContent: the picture cannot be decoded.
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
        # As it will be kept: how pixels lie in memory may decide by which code they are resized.
        return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    @property
    def sixteen_bit_depth(self) -> int | None:
        """Bits that 16-bit grey images use, where that is known."""
        return self._geometry.sixteen_bit_depth

    @property
    def example_bytes(self) -> int:
        """What an example takes."""
        return 3 * self._geometry.size**2

    def finished(self, pixels: Tensor, randomness: random.Random | None) -> dict[str, Tensor]:
        """Make an example of what `decoded` gave; leaves that as it is."""
        if randomness is None or self._augmentation == "none":
            return {"pixels": pixels}
        return {"pixels": augment(pixels, self._geometry, self._augmentation, randomness)}

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack to `pixels` uint8 `[rows, 3, size, size]`, in memory channels last.

        Decoders and resizing give pictures with channels last, and so are they fastest for convolutions; copying them
        as they lie takes a quarter of the time of turning them.
        """
        if not examples:
            return {"pixels": torch.empty((0, 3, self._geometry.size, self._geometry.size), dtype=torch.uint8)}
        rows = [example["pixels"].permute(1, 2, 0) for example in examples]
        return {"pixels": torch.stack(rows).permute(0, 3, 1, 2)}
