"""Decides which decoded images are cached for the whole job, and how much space they get."""

from __future__ import annotations

from finetune.data.loading.batches import Batches
from finetune.data.loading.byte_arena import Room
from finetune.data.loading.image_cache import KeptPictures
from finetune.data.transforms.base import ImageTransform
from finetune.features.budget import CacheBudget
from finetune.features.plan import CachePlan


class DecodedOnce:
    """Caches decoded images across the phases of a job that reads them more than once."""

    def __init__(self, frozen: CachePlan, space: CacheBudget) -> None:
        """Initialize without caching any image.

        Args:
            frozen: cache plan, which counts the passes over the images.
            space: budget of the caches.
        """
        self._frozen = frozen
        self._space = space
        self._passes = frozen.passes
        self._reserved = 0
        self._validation: KeptPictures | None = None
        self._training: KeptPictures | None = None
        self._varied = False

    def validation(self, batches: Batches) -> Batches:
        """Return the batches with an image cache; validation images are small, so their space is reserved first."""
        transform = batches.dataset.transform
        if self._passes.validation < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._validation is None:
            self._reserved = min(self._memory() // 2, len(batches.dataset) * transform.example_bytes)
            self._validation = KeptPictures(transform, Room(self._reserved), "validation")
        return batches.keeping(self._validation)

    def training(self, batches: Batches) -> Batches:
        """Return the batches with an image cache."""
        transform, varied = batches.dataset.transform, batches.varies
        passes = self._passes.varied if varied else self._passes.plain
        if passes < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._training is None or self._varied != varied:
            # Images to be augmented are larger, and are needed only after the others are no longer used.
            self._training, self._varied = None, varied
            room = self._space.room(self._memory() - self._reserved, beside=self._reserved)
            self._training = KeptPictures(transform, room, "training")
        return batches.keeping(self._training)

    def _memory(self) -> int:
        """Return the memory for images in bytes: 0 if features need it, because they are read more often."""
        return 0 if self._frozen.caches_features else self._space.memory()
