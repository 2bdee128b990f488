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
from finetune.features.extractor import Computed, FeatureExtractor, compute
from finetune.features.store import BAD, UNKNOWN, FeatureStore, StoreLimits, joined, moved


class FeatureBatches:
    """The batches of each epoch as features on the device, with the same records in the same order as `Batches`.

    Cached features are gathered; others are computed when their batch is due, and cached if there is space. So training
    can start or resume with an incomplete cache, and caching does not change a bit.
    """

    def __init__(self, batches: Batches, run: FeatureExtractor, views: int, place: StoreLimits) -> None:
        """Initialize without computing any feature.

        Args:
            batches: batches of the records.
            run: configuration of the frozen prefix's forward pass.
            views: number of cached augmented views; epochs cycle through them.
            place: limits of the feature store.
        """
        # With one vector per record there is no padding to save, so a fully random order is better.
        self._batches = batches if run.split.padding else batches.of_any_length()
        self._run = run
        self._views = views
        dataset = batches.dataset
        self._count = len(dataset)
        self._storage = FeatureStore(
            self._count * views, place, run.split.padding, run.longest if run.split.padding else 1
        )
        labels = [dataset.reader.labels(index) for index in dataset.indices]
        self._targets = dataset.label_map.targets(labels).to(run.device)
        self._passing: dict[int, dict[str, Tensor]] = {}

    @property
    def dataset(self) -> Dataset:
        """Dataset of the batches."""
        return self._batches.dataset

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._batches.channel

    @property
    def storage(self) -> FeatureStore:
        """Store of the cached features."""
        return self._storage

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._batches)

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, starting at batch `first`.

        Raises:
            DataError: more records are bad than `max_bad_records` allows.
        """
        view = epoch % self._views
        lists = [np.asarray(positions, np.int64) for positions in self._batches.positions(epoch, first)]
        self._passing.clear()
        with closing(self._computed(lists, view)) as computed:
            for positions in lists:
                entries = positions + view * self._count
                while not self._ready(entries):
                    self._take(next(computed), view)
                yield self._batch(positions, entries)

    def _computed(self, lists: list[NDArray[np.int64]], view: int) -> Generator[Computed, None, None]:
        wanted = np.concatenate([np.empty(0, np.int64), *lists])
        missing = wanted[self._storage.lengths[wanted + view * self._count] == UNKNOWN]
        return compute(self._run, self._batches, missing.tolist(), view)

    def _ready(self, entries: NDArray[np.int64]) -> bool:
        unknown = entries[self._storage.lengths[entries] == UNKNOWN]
        return all(int(entry) in self._passing for entry in unknown)

    def _take(self, computed: Computed, view: int) -> None:
        """Cache the features that fit, and hold the rest until their batch is due."""
        offset = view * self._count
        self._storage.lengths[computed.bad + offset] = BAD
        entries = computed.positions + offset
        if not len(entries):
            return
        for row in range(self._storage.put(entries, computed.features), len(entries)):
            self._passing[int(entries[row])] = {name: value[row : row + 1] for name, value in computed.features.items()}

    def _batch(self, positions: NDArray[np.int64], entries: NDArray[np.int64]) -> Batch:
        good = self._storage.lengths[entries] != BAD
        positions, entries = positions[good], entries[good]
        kept = self._storage.kept(entries)
        features = self._storage.gather(entries) if kept.all() else self._mixed(entries, kept)
        index = moved(torch.from_numpy(positions), self._targets.device)
        return Batch(features, self._targets.index_select(0, index), tuple(positions.tolist()))

    def _mixed(self, entries: NDArray[np.int64], kept: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Return features that are only partly cached, in the format of `gather`."""
        rows = (
            self._storage.gather(entries[row : row + 1]) if is_kept else self._passing.pop(int(entry))
            for row, (entry, is_kept) in enumerate(zip(entries, kept, strict=True))
        )
        return joined(rows, len(entries), self._run.device, self._run.split.padding, self._run.longest)
