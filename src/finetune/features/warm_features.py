"""Reuses features across jobs: loads them from the warm pool before computing, and saves them afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune.features.batches import FeatureBatches
from finetune.features.warm_pool import WarmPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    features: FeatureBatches
    key: str
    found: int


@dataclass(slots=True)
class WarmFeatures:
    """The features of a phase that are exchanged with a warm pool."""

    pool: WarmPool
    _kept: list[_Kept] = field(default_factory=list)

    def load(self, features: FeatureBatches, name: Callable[[], str]) -> None:
        """Load features that an earlier job saved, as far as there is space.

        Args:
            features: feature batches before any computation.
            name: returns the cache key of the features; it reads every record, so it is called only if there is a warm
                pool.
        """
        if not self.pool.is_there:
            return
        began = time.monotonic()
        key = name()
        tensors = self.pool.find(key)
        found = 0
        if tensors is not None:
            try:
                found = features.storage.load(tensors)
            except ValueError as error:
                logger.warning("What an earlier job left under %s is not used: %s", key, error)
        self._kept.append(_Kept(features, key, found))
        logger.info(
            "Of %d features of %s, %d were left by an earlier job on this machine (%.1f s to look).",
            len(features.storage.lengths),
            features.channel,
            found,
            time.monotonic() - began,
        )

    def save(self) -> None:
        """Save the computed features for later jobs, and release them."""
        for one in self._kept:
            kept = int((one.features.storage.lengths >= 0).sum())
            if kept > one.found and self.pool.save(one.key, one.features.storage.state()):
                logger.info("%d features of %s are left for later jobs on this machine.", kept, one.features.channel)
        self._kept.clear()
