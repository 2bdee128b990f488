"""Which pictures are decoded once for the whole job, and where do they lie?"""

from __future__ import annotations

from finetune.data.loading.batches import Batches
from finetune.data.loading.byte_arena import Room
from finetune.data.loading.image_cache import KeptPictures
from finetune.data.transforms.base import ImageTransform
from finetune.features.budget import Space
from finetune.features.plan import Frozen


class DecodedOnce:
    """Keeps decoded pictures over the phases of a job, where several passes look at them."""

    def __init__(self, frozen: Frozen, space: Space) -> None:
        """Keep nothing yet.

        Args:
            frozen: knows how often pictures are looked at.
            space: what is free.
        """
        self._frozen = frozen
        self._space = space
        self._passes = frozen.passes
        self._reserved = 0
        self._validation: KeptPictures | None = None
        self._training: KeptPictures | None = None
        self._varied = False

    def validation(self, batches: Batches) -> Batches:
        """The same batches, of kept pictures: they are small, and have their room reserved first."""
        transform = batches.dataset.transform
        if self._passes.validation < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._validation is None:
            self._reserved = min(self._memory() // 2, len(batches.dataset) * transform.example_bytes)
            self._validation = KeptPictures(transform, Room(self._reserved), "validation")
        return batches.keeping(self._validation)

    def training(self, batches: Batches) -> Batches:
        """The same batches, of kept pictures."""
        transform, varied = batches.dataset.transform, batches.varies
        passes = self._passes.varied if varied else self._passes.plain
        if passes < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._training is None or self._varied != varied:
            # Those to be augmented are larger, and come when the others are asked for no more.
            self._training, self._varied = None, varied
            room = self._space.room(self._memory() - self._reserved, beside=self._reserved)
            self._training = KeptPictures(transform, room, "training")
        return batches.keeping(self._training)

    def _memory(self) -> int:
        """Bytes of memory for pictures: none where features need it, which are asked for more often."""
        return 0 if self._frozen.keeps_features else self._space.memory()
