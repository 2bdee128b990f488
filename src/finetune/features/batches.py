"""Feature batches of a dataset: the record batches with the frozen prefix's outputs as inputs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.loading.batches import Batch, Batches
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.features.extractor import FeatureChunk, FeatureExtractor
from finetune.features.store import BAD, NOT_CACHED, FeatureStore, StoreLimits, copy_to_device


class FeatureBatches:
    """The batches of each epoch as features on the device, with the same records in the same order as `Batches`.

    Cached features are gathered; others are computed when their batch is due, and cached if there is space. So training
    can start or resume with an incomplete cache, and caching does not change a bit.
    """

    def __init__(self, batches: Batches, extractor: FeatureExtractor, views: int, limits: StoreLimits) -> None:
        """Initialize without computing any feature.

        Args:
            batches: batches of the records.
            extractor: configuration of the frozen prefix's forward pass.
            views: number of cached augmented views; epochs cycle through them.
            limits: limits of the feature store.
        """
        # With one vector per record there is no padding to save, so a fully random order is better.
        self._batches = batches if extractor.split.padding else batches.without_length_grouping()
        self._extractor = extractor
        self._views = views
        dataset = batches.dataset
        self._count = len(dataset)
        self._store = FeatureStore(self._count * views, limits, extractor.split.padding, extractor.max_length)
        labels = [dataset.reader.labels(index) for index in dataset.indices]
        self._targets = dataset.label_map.targets(labels).to(extractor.device)
        self._uncached: dict[int, dict[str, Tensor]] = {}

    @property
    def dataset(self) -> Dataset:
        """Dataset of the batches."""
        return self._batches.dataset

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._batches.channel

    @property
    def store(self) -> FeatureStore:
        """Store of the cached features."""
        return self._store

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._batches)

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the batches of an epoch, starting at batch `first`.

        Raises:
            DataError: more records are bad than `max_bad_records` allows.
        """
        view = epoch % self._views
        shares = self._batches.share_of(share).select(self._batches.positions(epoch, first))
        lists = [np.asarray(positions, np.int64) for positions in shares]
        self._uncached.clear()
        with closing(self._compute(lists, view)) as chunks:
            for positions in lists:
                entries = positions + view * self._count
                while not self._is_ready(entries):
                    self._add_chunk(next(chunks), view)
                yield self._batch(positions, entries)

    def _compute(self, lists: list[NDArray[np.int64]], view: int) -> Generator[FeatureChunk, None, None]:
        requested = np.concatenate([np.empty(0, np.int64), *lists])
        missing = requested[self._store.lengths[requested + view * self._count] == NOT_CACHED]
        return self._extractor.compute(self._batches, missing.tolist(), view)

    def _is_ready(self, entries: NDArray[np.int64]) -> bool:
        missing = entries[self._store.lengths[entries] == NOT_CACHED]
        return all(int(entry) in self._uncached for entry in missing)

    def _add_chunk(self, chunk: FeatureChunk, view: int) -> None:
        """Cache the features that fit, and hold the rest until their batch is due."""
        offset = view * self._count
        self._store.lengths[chunk.bad + offset] = BAD
        entries = chunk.positions + offset
        if not len(entries):
            return
        for row in range(self._store.put(entries, chunk.features), len(entries)):
            self._uncached[int(entries[row])] = {name: value[row : row + 1] for name, value in chunk.features.items()}

    def _batch(self, positions: NDArray[np.int64], entries: NDArray[np.int64]) -> Batch:
        decoded = self._store.lengths[entries] != BAD
        positions, entries = positions[decoded], entries[decoded]
        cached = self._store.is_cached(entries)
        features = self._store.gather(entries) if cached.all() else self._gather_mixed(entries, cached)
        index = copy_to_device(torch.from_numpy(positions), self._targets.device)
        return Batch(features, self._targets.index_select(0, index), tuple(positions.tolist()))

    def _gather_mixed(self, entries: NDArray[np.int64], cached: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Return features that are only partly cached, in the format of `gather`."""
        rows = [
            self._store.gather(entries[row : row + 1]) if entry_is_cached else self._uncached.pop(int(entry))
            for row, (entry, entry_is_cached) in enumerate(zip(entries, cached, strict=True))
        ]
        return self._store.merge(rows)
