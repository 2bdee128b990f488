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
from finetune.features.exchange import FeatureExchange
from finetune.features.extractor import FeatureChunk, FeatureExtractor
from finetune.features.store import BAD, NOT_CACHED, FeatureStore, StoreLimits, copy_to_device


class FeatureBatches:
    """The batches of each epoch as features on the device, with the same records in the same order as `Batches`.

    Cached features are gathered; others are computed when their batch is due, and cached if there is space. So training
    can start or resume with an incomplete cache, and caching does not change a bit.

    Several processes compute the features of their own batches; or those of all batches together, if every process
    needs all of them. In the second case, all processes draw the same batches at the same time.
    """

    def __init__(
        self,
        batches: Batches,
        extractor: FeatureExtractor,
        views: int,
        store: FeatureStore | StoreLimits,
        exchange: FeatureExchange | None = None,
    ) -> None:
        """Initialize without computing any feature.

        Args:
            batches: batches of the records.
            extractor: configuration of the frozen prefix's forward pass.
            views: number of cached augmented views; epochs cycle through them.
            store: store with an entry for each view of each record, or the limits of a new one.
            exchange: the processes that compute all features together; `None` if this process computes its own.
        """
        self._batches = feature_batches(batches, extractor)
        self._extractor = extractor
        self._views = views
        self._exchange = exchange
        dataset = batches.dataset
        self._count = len(dataset)
        if isinstance(store, StoreLimits):
            store = FeatureStore(self._count * views, store, extractor.split.padding, extractor.max_length)
        self._store = store
        labels = [dataset.reader.labels(index) for index in dataset.indices]
        self._targets = dataset.label_map.targets(labels).to(extractor.device)
        self._uncached: dict[int, dict[str, Tensor]] = {}
        self._uses: NDArray[np.int64] = np.zeros(self._count, np.int64)

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
        # A sampler may draw a record several times; its features are those of the view.
        lists = [np.asarray(positions, np.int64) % max(1, self._count) for positions in shares]
        requested = np.concatenate([np.empty(0, np.int64), *lists])
        self._uses = np.bincount(requested, minlength=self._count)
        missing = self._missing(requested[np.sort(np.unique(requested, return_index=True)[1])], view)
        pending = np.zeros(self._count, np.bool_)
        pending[missing] = True
        self._uncached.clear()
        with closing(self._compute(missing, view)) as computed:
            for positions in lists:
                while pending[positions].any():
                    pending[next(computed)] = False
                yield self._batch(positions, positions + view * self._count)

    def _missing(self, requested: NDArray[np.int64], view: int) -> NDArray[np.int64]:
        """Return those of the different positions whose features are to be computed, in the same order."""
        is_missing: NDArray[np.bool_] = self._store.lengths[requested + view * self._count] == NOT_CACHED
        if self._exchange is not None:
            # Hosts differ in what they cached.
            is_missing = self._exchange.world.union(is_missing)
        missing: NDArray[np.int64] = requested[is_missing]
        return missing

    def _compute(self, missing: NDArray[np.int64], view: int) -> Generator[NDArray[np.int64], None, None]:
        """Compute features, and yield the positions that are done."""
        if self._exchange is not None:
            with closing(self._exchange.rounds(self._extractor, self._batches, missing.tolist(), view)) as rounds:
                for chunks in rounds:
                    yield self._add_round(self._exchange, chunks, view)
            return
        with closing(self._extractor.compute(self._batches, missing.tolist(), view)) as computed:
            for chunk in computed:
                self._cache(chunk, view)
                self._hold(chunk, view)
                yield np.concatenate([chunk.positions, chunk.bad])

    def _add_round(self, exchange: FeatureExchange, own: list[FeatureChunk], view: int) -> NDArray[np.int64]:
        """Cache the features that all processes have computed; return their positions."""
        store, world = self._store, exchange.world
        for chunk in own:
            self._cache(chunk, view)
        headers = exchange.headers(own)
        all_headers = [header for headers_of_rank in headers for header in headers_of_rank]
        for header in all_headers:
            self._note_bad(header.bad, view)
        computed = np.concatenate([np.empty(0, np.int64), *(header.positions for header in all_headers)])
        entries = computed + view * self._count
        if world.spans_hosts or not store.is_shared or not store.is_cached(entries).all():
            received = list(exchange.receive(own, headers))
            for rank, chunk in received:
                # Otherwise another process of this host caches the chunk.
                if not store.is_shared or (world.local_rank == 0 and not world.is_local(rank)):
                    self._cache(chunk, view)
            if world.spans_hosts:
                world.barrier()
            for _, chunk in received:
                self._hold(chunk, view)
        return np.concatenate([computed, *(header.bad for header in all_headers)])

    def _note_bad(self, positions: NDArray[np.int64], view: int) -> None:
        self._store.lengths[positions + view * self._count] = BAD

    def _cache(self, chunk: FeatureChunk, view: int) -> None:
        """Cache the features that fit and are not cached yet."""
        self._note_bad(chunk.bad, view)
        entries = chunk.positions + view * self._count
        new = ~self._store.is_cached(entries)
        if not new.any():
            return
        features = chunk.features
        if not new.all():
            rows = torch.from_numpy(np.flatnonzero(new))
            features = {name: value[copy_to_device(rows, value.device)] for name, value in features.items()}
        self._store.put(entries[new], features)

    def _hold(self, chunk: FeatureChunk, view: int) -> None:
        """Hold the features that are not cached until their batch is due."""
        entries = chunk.positions + view * self._count
        for row in np.flatnonzero(~self._store.is_cached(entries)).tolist():
            self._uncached[int(entries[row])] = {name: value[row : row + 1] for name, value in chunk.features.items()}

    def _batch(self, positions: NDArray[np.int64], entries: NDArray[np.int64]) -> Batch:
        decoded = self._store.lengths[entries] != BAD
        positions, entries = positions[decoded], entries[decoded]
        cached = self._store.is_cached(entries)
        features = self._store.gather(entries) if cached.all() else self._gather_mixed(entries, cached)
        index = copy_to_device(torch.from_numpy(positions), self._targets.device)
        return Batch(features, self._targets.index_select(0, index), tuple(positions.tolist()))

    def _take_uncached(self, entry: int) -> dict[str, Tensor]:
        """Return features that are not cached, and release them if the epoch does not use them again."""
        self._uses[entry % self._count] -= 1
        return self._uncached[entry] if self._uses[entry % self._count] else self._uncached.pop(entry)

    def _gather_mixed(self, entries: NDArray[np.int64], cached: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Return features that are only partly cached, in the format of `gather`."""
        rows = [
            self._store.gather(entries[row : row + 1]) if entry_is_cached else self._take_uncached(int(entry))
            for row, (entry, entry_is_cached) in enumerate(zip(entries, cached, strict=True))
        ]
        return self._store.merge(rows)


def feature_batches(batches: Batches, extractor: FeatureExtractor) -> Batches:
    """Return the batches in which the features of records are used."""
    # With one vector per record there is no padding to save, so a fully random order is better.
    return batches if extractor.split.padding else batches.without_length_grouping()
