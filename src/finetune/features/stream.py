"""Feature batches of a stream, the counterpart of `FeatureBatches` for datasets.

Every epoch is read from its own pipe, since its records are not known in advance. But a record with cached features is
neither decoded nor passed through the frozen prefix again; it is identified by its content.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.pipe.batches import StreamBatches
from finetune.data.pipe.examples import Example, PreparedBatch
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.features.extractor import FeatureExtractor
from finetune.features.store import FeatureStore, StoreLimits, copy_to_device

_CHUNKS_AHEAD = 16
"""Chunks of texts read ahead, to batch texts of equal length; the larger, the fewer padding rows."""

Key = bytes
"""Hash of a record's content and the number of its view."""
KeyedInputs = tuple[Key, dict[str, Tensor] | None]
"""The key of a record, and the inputs of the frozen prefix; `None` if its features are cached."""
Rows = dict[Key, dict[str, Tensor]]
"""Features by key, each in a batch of one."""


class FeatureStream:
    """The batches of each epoch as features on the device, with the same records in the same order as `StreamBatches`.

    Cached features are gathered; others are computed, and cached if there is space; caching does not change a bit.
    Nothing is cached if the number of records is unknown.
    """

    def __init__(
        self, stream: StreamBatches, extractor: FeatureExtractor, views: int, limits: StoreLimits, count: int
    ) -> None:
        """Initialize without computing any feature.

        Args:
            stream: batches of the records.
            extractor: configuration of the frozen prefix's forward pass.
            views: number of cached augmented views; epochs cycle through them.
            limits: limits of the feature store.
            count: number of records to reserve space for, as far as the limits allow.
        """
        self._stream = stream
        self._extractor = extractor
        self._views = views
        self._store = FeatureStore(count * views, limits, extractor.split.padding, extractor.max_length)
        self._entries: dict[Key, int] = {}
        records = extractor.chunk_size * max(extractor.concurrency, _CHUNKS_AHEAD if extractor.max_length > 1 else 1)
        self._window_size = -(-records // stream.batch_size)

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._stream.channel

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the next pipe; with `first`, after the batches in the stream's position.

        Raises:
            DataError: the stream is damaged or empty, more records are bad than allowed, or a class is unknown.
            JobStopped: the job was stopped.
        """
        view = epoch % self._views

        def make_inputs(record: StreamRecord, content: Content) -> KeyedInputs:
            key = _key(record.parts, view)
            return key, None if key in self._entries else self._stream.example(view, record, content)

        with closing(self._stream.prepare(epoch, first, make_inputs, share)) as prepared:
            for window in _windows(prepared, self._window_size):
                uncached = self._compute(
                    itertools.chain.from_iterable(prepared_batch.good for prepared_batch in window)
                )
                for prepared_batch in window:
                    keys = [example.result[0] for example in prepared_batch.good]
                    batch = self._stream.use(prepared_batch, self._gather(keys, uncached))
                    targets = copy_to_device(batch.targets, self._extractor.device)
                    yield Batch(batch.inputs, targets, batch.positions)
        self._stream.finish(epoch)

    def _compute(self, examples: Iterable[Example[KeyedInputs]]) -> Rows:
        """Compute the features of new records, cache those that fit, and return the rest."""
        new_inputs: dict[Key, dict[str, Tensor]] = {}
        for example in examples:
            key, inputs = example.result
            if inputs is not None and key not in self._entries:
                new_inputs[key] = inputs
        uncached: Rows = {}
        if not new_inputs:
            return uncached
        keys = list(new_inputs)
        for rows, features in self._extractor.compute_rows(self._stream.collate(list(new_inputs.values())), len(keys)):
            row_keys = [keys[row] for row in rows.tolist()]
            cached = self._cache(row_keys, features)
            for row, key in enumerate(row_keys[cached:], cached):
                uncached[key] = {name: value[row : row + 1] for name, value in features.items()}
        return uncached

    def _cache(self, keys: Sequence[Key], features: dict[str, Tensor]) -> int:
        """Cache as many of the first rows as fit; return their number."""
        begin = len(self._entries)
        entries = np.arange(begin, min(begin + len(keys), len(self._store.lengths)))
        if not len(entries):
            return 0
        cached = self._store.put(entries, {name: value[: len(entries)] for name, value in features.items()})
        self._entries.update(zip(keys[:cached], entries[:cached].tolist(), strict=True))
        return cached

    def _gather(self, keys: Sequence[Key], uncached: Rows) -> dict[str, Tensor]:
        entries = [self._entries.get(key) for key in keys]
        cached = [entry for entry in entries if entry is not None]
        if len(cached) == len(entries):
            return self._store.gather(np.asarray(cached, np.int64))
        rows = [
            uncached[key] if entry is None else self._store.gather(np.asarray([entry]))
            for key, entry in zip(keys, entries, strict=True)
        ]
        return self._store.merge(rows)


def _windows(prepared: Iterable[PreparedBatch[KeyedInputs]], size: int) -> Iterator[list[PreparedBatch[KeyedInputs]]]:
    iterator = iter(prepared)
    while window := list(itertools.islice(iterator, size)):
        yield window


def _key(parts: Iterable[bytes], view: int) -> Key:
    digest = hashlib.blake2b(view.to_bytes(8, "little"), digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
