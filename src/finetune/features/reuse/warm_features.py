"""Reuses features across jobs: loads them from the warm pool before computing, and saves them afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune.distributed.world import World
from finetune.features.batches import FeatureBatches
from finetune.features.reuse.warm_pool import WarmPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    features: FeatureBatches
    key: str
    loaded: int


@dataclass(slots=True)
class WarmFeatures:
    """The features of a phase that are exchanged with a warm pool, which each host has for itself.

    All processes of the job call the methods together.
    """

    pool: WarmPool
    world: World = field(default_factory=World)
    _entries: list[_CacheEntry] = field(default_factory=list)

    def load(self, features: FeatureBatches, compute_key: Callable[[], str]) -> None:
        """Load features that an earlier job saved, as far as there is space.

        Args:
            features: feature batches before any computation.
            compute_key: returns the cache key of the features; it reads every record, so it is called only if there is
                a warm pool. All processes compute the key together.
        """
        if not self.world.any(self.pool.is_available):
            return
        began = time.monotonic()
        key = compute_key()
        if self.world.local_rank == 0:
            self._load(features, key)
        self.world.barrier()
        if self.world.local_rank > 0 and not features.store.is_shared:
            self._load(features, key)
        loaded = int((features.store.lengths >= 0).sum())
        self._entries.append(_CacheEntry(features, key, loaded))
        logger.info(
            "Loaded %d of %d cached features for %s (%.1f s).",
            loaded,
            len(features.store.lengths),
            features.channel,
            time.monotonic() - began,
        )

    def _load(self, features: FeatureBatches, key: str) -> None:
        tensors = self.pool.find(key)
        if tensors is None:
            return
        try:
            features.store.load_state_dict(tensors)
        except ValueError as error:
            logger.warning("Ignoring cached features %s: %s", key, error)

    def save(self) -> None:
        """Save the computed features for later jobs, and release them."""
        for entry in () if self.pool.read_only else self._entries:
            cached = int((entry.features.store.lengths >= 0).sum())
            if cached > entry.loaded and self.pool.save(entry.key, entry.features.store.state_dict()):
                logger.info("Saved %d features of %s for later jobs.", cached, entry.features.channel)
        self._entries.clear()
