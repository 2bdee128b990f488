"""Policy of the image cache: which decoded images are cached across phases, and in how much space."""

from __future__ import annotations

from finetune.data.loading.batches import Batches
from finetune.data.loading.byte_arena import ByteArena
from finetune.data.loading.image_cache import DecodedImageCache
from finetune.data.loading.image_storage import ImageStorage, PrivateImages, SharedImages
from finetune.data.transforms.base import ImageTransform
from finetune.distributed.host_memory import share_bytes
from finetune.distributed.world import World
from finetune.features.budget import CacheBudget
from finetune.features.plan import CachePlan


class ImageCachePolicy:
    """Caches decoded images across the phases of a job that reads them more than once.

    The processes of a host share the images; all processes of the job call the methods in the same order.
    """

    def __init__(self, cache_plan: CachePlan, budget: CacheBudget, world: World) -> None:
        """Initialize without caching any image.

        Args:
            cache_plan: cache plan, which counts the passes over the images.
            budget: budget of the caches of a host.
            world: the processes of the job.
        """
        self._world = world
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
            count = len(batches.dataset)
            self._reserved_bytes = min(self._memory() // 2, count * transform.example_bytes)
            images = self._storage(count, self._reserved_bytes, 0)
            self._validation = DecodedImageCache(transform, images, "validation")
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
            limits = self._budget.byte_limits(self._memory() - self._reserved_bytes, used_bytes=self._reserved_bytes)
            self._training = DecodedImageCache(transform, self._storage(len(batches.dataset), *limits), "training")
        return batches.with_examples(self._training)

    def _storage(self, count: int, memory_bytes: int, disk_bytes: int) -> ImageStorage:
        """Return storage for images, shared by the processes of each host."""
        copies = 1
        if self._world.size > 1:
            index = share_bytes(self._world, SharedImages.required_bytes(count))
            memory = share_bytes(self._world, memory_bytes)
            disk = share_bytes(self._world, disk_bytes, self._budget.folder)
            if index is not None and memory is not None and disk is not None:
                return SharedImages(index, memory, disk, count)
            copies = self._world.local_size
        return PrivateImages(ByteArena(memory_bytes // copies, disk_bytes // copies, self._budget.folder))

    def _memory(self) -> int:
        """Return the memory for images in bytes: 0 if features need it, because they are read more often."""
        return 0 if self._cache_plan.caches_features else self._budget.memory_bytes()
