"""Feature batches of a stream, the counterpart of `FeatureBatches` for datasets.

Every epoch is read from its own pipe, since its records are not known in advance. But a record with cached features is
neither decoded nor passed through the frozen prefix again; it is identified by its content.

Several processes that all need whole batches divide the records by a checksum of their content: every process computes
and caches the features of the same records in every epoch, and they exchange the features of a few batches at a time.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.data.loading.shares import WHOLE_BATCHES, RowShare, Share
from finetune.data.pipe.batches import StreamBatches
from finetune.data.pipe.examples import Example, PreparedBatch
from finetune.data.pipe.shuffle import StreamPosition
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.distributed.shares import ReplicatedBatches, WorldShare
from finetune.distributed.world import World
from finetune.errors import JobStopped
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


@dataclass(frozen=True, slots=True)
class RecordsByContent(WorldShare):
    """A `RowShare` that gives each record to a process by its identity, so that it is the same one in every epoch.

    Attributes:
        world: the processes of the job.
    """

    world: World

    def rows(self, number: int, identities: Sequence[int], local_rank: int) -> list[Sequence[int]]:
        """Return the rows of the records of a process of this host."""
        del number
        rank = self.rank_of(local_rank)
        # The lower bits of an identity are the length of the record.
        return [[row for row, identity in enumerate(identities) if (identity >> 31) % self.world.size == rank]]


@dataclass(frozen=True, slots=True)
class _OwnRows:
    """What a process has computed of a batch, for the others.

    Attributes:
        rows: rows in the batch.
        features: features of these rows, on the host.
        targets: targets of these rows, on the host.
        positions: positions of these records in the stream.
    """

    rows: list[int]
    features: dict[str, Tensor]
    targets: Tensor
    positions: tuple[int, ...]


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
        if isinstance(share, ReplicatedBatches):
            yield from self._iterate_together(epoch, first, share.world)
            return
        with closing(self._prepare(epoch, first, self._stream.share_of(share))) as prepared:
            for window in _windows(prepared, self._window_size * share.local_size):
                uncached = self._compute_window(window)
                for prepared_batch in window:
                    self._stream.use(prepared_batch)
                    for examples in prepared_batch.good:
                        batch = self._batch(examples, uncached)
                        targets = copy_to_device(batch.targets, self._extractor.device)
                        yield Batch(batch.inputs, targets, batch.positions)
        self._stream.finish(epoch)

    def _iterate_together(self, epoch: int, first: int, world: World) -> Generator[Batch, None, None]:
        """Yield whole batches, of which every process computes some rows.

        Raises:
            JobStopped: any process was stopped; in all of them, before the same batch.
            ProcessLostError: another process has ended.
        """
        with closing(self._prepare(epoch, first, RecordsByContent(world))) as prepared:
            windows = _windows(prepared, self._window_size * world.size)
            while True:
                window = None
                with suppress(JobStopped):
                    window = next(windows, [])
                sent = None if window is None else (_mark(window), self._own_rows(window))
                received = [computed for computed in world.all_gather(sent) if computed is not None]
                if window is None or len(received) < world.size:
                    raise JobStopped
                self._stream.position.compare([mark for mark, _ in received])
                if not window:
                    break
                for prepared_batch, *parts in zip(window, *(parts for _, parts in received), strict=True):
                    self._stream.use(prepared_batch)
                    yield self._merge(parts)
        self._stream.finish(epoch)

    def _prepare(self, epoch: int, first: int, share: RowShare) -> Generator[PreparedBatch[KeyedInputs], None, None]:
        view = epoch % self._views

        def make_inputs(record: StreamRecord, content: Content) -> KeyedInputs:
            key = _key(record.parts, view)
            return key, None if key in self._entries else self._stream.example(view, record, content)

        return self._stream.prepare(epoch, first, make_inputs, share)

    def _compute_window(self, window: Iterable[PreparedBatch[KeyedInputs]]) -> Rows:
        parts = itertools.chain.from_iterable(prepared_batch.good for prepared_batch in window)
        return self._compute(itertools.chain.from_iterable(parts))

    def _batch(self, examples: Sequence[Example[KeyedInputs]], uncached: Rows) -> Batch:
        return self._stream.batch(examples, self._gather([example.result[0] for example in examples], uncached))

    def _own_rows(self, window: Sequence[PreparedBatch[KeyedInputs]]) -> list[_OwnRows]:
        uncached = self._compute_window(window)
        own = []
        for prepared_batch in window:
            batch = self._batch(prepared_batch.good[0], uncached)
            features = {name: value.cpu() for name, value in batch.inputs.items()}
            own.append(_OwnRows(prepared_batch.rows_of_good(), features, batch.targets, batch.positions))
        return own

    def _merge(self, parts: Sequence[_OwnRows]) -> Batch:
        """Return the batch on the device, with the rows of all processes in their order in the stream."""
        device = self._extractor.device
        parts = [part for part in parts if part.rows] or parts[:1]
        order = torch.argsort(torch.tensor([row for part in parts for row in part.rows], dtype=torch.int64))
        targets = torch.cat([part.targets for part in parts])[order]
        positions = [position for part in parts for position in part.positions]
        features = self._merge_features([part.features for part in parts], order)
        return Batch(features, copy_to_device(targets, device), tuple(positions[row] for row in order.tolist()))

    def _merge_features(self, parts: Sequence[dict[str, Tensor]], order: Tensor) -> dict[str, Tensor]:
        if all(value.dim() == 2 for value in parts[0].values()) and not self._extractor.split.padding:
            return {
                name: copy_to_device(torch.cat([part[name] for part in parts])[order], self._extractor.device)
                for name in parts[0]
            }
        entries = [
            {name: value[row : row + 1] for name, value in part.items()}
            for part in parts
            for row in range(len(next(iter(part.values()))))
        ]
        return self._store.merge([entries[row] for row in order.tolist()])

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


def _mark(window: Iterable[PreparedBatch[KeyedInputs]]) -> tuple[int, int]:
    """Number and checksum of the records of a window."""
    position = StreamPosition()
    for prepared in window:
        position.use(prepared.share.identities)
    return position.mark


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
