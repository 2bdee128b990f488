"""Policy of the image cache: which decoded images are cached across phases, and in how much space."""

from __future__ import annotations

from finetune.data.loading.batches import Batches
from finetune.data.loading.byte_arena import ByteArena
from finetune.data.loading.image_cache import DecodedImageCache
from finetune.data.transforms.base import ImageTransform
from finetune.features.budget import CacheBudget
from finetune.features.plan import CachePlan


class ImageCachePolicy:
    """Caches decoded images across the phases of a job that reads them more than once."""

    def __init__(self, cache_plan: CachePlan, budget: CacheBudget) -> None:
        """Initialize without caching any image.

        Args:
            cache_plan: cache plan, which counts the passes over the images.
            budget: budget of the caches.
        """
        self._cache_plan = cache_plan
        self._budget = budget
        self._passes = cache_plan.passes
        self._reserved_bytes = 0
        self._validation: DecodedImageCache | None = None
        self._training: DecodedImageCache | None = None
        self._is_augmented = False

    def cache_validation(self, batches: Batches) -> Batches:
        """Return the batches with an image cache; validation images are small, so their space is reserved first."""
        transform = batches.dataset.transform
        if self._passes.validation < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._validation is None:
            self._reserved_bytes = min(self._memory() // 2, len(batches.dataset) * transform.example_bytes)
            self._validation = DecodedImageCache(transform, ByteArena(self._reserved_bytes), "validation")
        return batches.with_examples(self._validation)

    def cache_training(self, batches: Batches) -> Batches:
        """Return the batches with an image cache."""
        transform, augmented = batches.dataset.transform, batches.is_augmented
        passes = self._passes.augmented if augmented else self._passes.plain
        if passes < 2 or not isinstance(transform, ImageTransform):
            return batches
        if self._training is None or self._is_augmented != augmented:
            # Images to be augmented are larger, and are needed only after the others are no longer used.
            self._training, self._is_augmented = None, augmented
            arena = self._budget.byte_arena(self._memory() - self._reserved_bytes, used_bytes=self._reserved_bytes)
            self._training = DecodedImageCache(transform, arena, "training")
        return batches.with_examples(self._training)

    def _memory(self) -> int:
        """Return the memory for images in bytes: 0 if features need it, because they are read more often."""
        return 0 if self._cache_plan.caches_features else self._budget.memory_bytes()
