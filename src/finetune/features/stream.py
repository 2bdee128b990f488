"""Which batches of features does an epoch of a stream have? Those of its records, as `FeatureBatches` of a data set.

Every epoch is read from its own pipe, since nobody knows beforehand what comes. But a record whose features are kept is
neither decoded nor sent through the front again; it is known by its content.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.data.pipe.batches import StreamBatches
from finetune.data.pipe.examples import Example, Prepared
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.features.extractor import FrontRun, rows_of
from finetune.features.store import Place, Storage, joined, moved

_CHUNKS_AHEAD = 16
"""Of texts, which go through the front with others of their length; the more, the fewer rows are copies."""

Key = bytes
"""Of a record's content, as it is varied in one of the views."""
Made = tuple[Key, dict[str, Tensor] | None]
"""The key of a record, and what enters the front; `None` where its features are kept."""
Rows = dict[Key, dict[str, Tensor]]
"""Features, each in a batch of one."""


class FeatureStream:
    """The batches of each epoch as features on the device, the same records in the same order as `StreamBatches`.

    A feature that is kept is gathered, another one is computed, and kept where there is room; which of them changes no
    bit. Nothing is kept where nobody knows how many records there are.
    """

    def __init__(self, stream: StreamBatches, run: FrontRun, views: int, place: Place, count: int) -> None:
        """Compute nothing yet.

        Args:
            stream: of the records.
            run: how the front runs.
            views: augmentations that are kept; epochs take turns with them.
            place: where features may lie.
            count: records for which there is to be room, as far as the place has it.
        """
        self._stream = stream
        self._run = run
        self._views = views
        self._storage = Storage(count * views, place, run.cut.padding, run.longest if run.cut.padding else 1)
        self._entries: dict[Key, int] = {}
        records = run.chunk * max(run.at_once, _CHUNKS_AHEAD if run.longest > 1 else 1)
        self._ahead = -(-records // stream.batch_size)

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._stream.channel

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of the next pipe; with `first`, after those that the stream's position counts as used.

        Raises:
            DataError: the stream is damaged or empty, more records are bad than allowed, or a class is unknown.
            JobStopped: the job was asked to stop.
        """
        view = epoch % self._views

        def make(record: StreamRecord, content: Content) -> Made:
            key = _key(record.parts, view)
            return key, None if key in self._entries else self._stream.example(view, record, content)

        with closing(self._stream.prepare(epoch, first, make)) as prepared:
            for window in _windows(prepared, self._ahead):
                passing = self._compute(itertools.chain.from_iterable(one.good for one in window))
                for one in window:
                    keys = [example.made[0] for example in one.good]
                    batch = self._stream.use(one, self._features(keys, passing))
                    targets = moved(batch.targets, self._run.device)
                    yield Batch(batch.inputs, targets, batch.positions)
        self._stream.finish(epoch)

    def _compute(self, examples: Iterable[Example[Made]]) -> Rows:
        """Send through the front what is new, keep what fits, and give the rest."""
        new: dict[Key, dict[str, Tensor]] = {}
        for example in examples:
            key, inputs = example.made
            if inputs is not None and key not in self._entries:
                new[key] = inputs
        passing: Rows = {}
        if not new:
            return passing
        keys = list(new)
        for rows, features in rows_of(self._run, self._stream.collate(list(new.values())), len(keys)):
            found = [keys[row] for row in rows.tolist()]
            kept = self._keep(found, features)
            for row, key in enumerate(found[kept:], kept):
                passing[key] = {name: value[row : row + 1] for name, value in features.items()}
        return passing

    def _keep(self, keys: Sequence[Key], features: dict[str, Tensor]) -> int:
        """Keep the first so many as fit."""
        begin = len(self._entries)
        entries = np.arange(begin, min(begin + len(keys), len(self._storage.lengths)))
        if not len(entries):
            return 0
        kept = self._storage.put(entries, {name: value[: len(entries)] for name, value in features.items()})
        self._entries.update(zip(keys[:kept], entries[:kept].tolist(), strict=True))
        return kept

    def _features(self, keys: Sequence[Key], passing: Rows) -> dict[str, Tensor]:
        entries = [self._entries.get(key) for key in keys]
        kept = [entry for entry in entries if entry is not None]
        if len(kept) == len(entries):
            return self._storage.gather(np.asarray(kept, np.int64))
        rows = (
            passing[key] if entry is None else self._storage.gather(np.asarray([entry]))
            for key, entry in zip(keys, entries, strict=True)
        )
        return joined(rows, len(keys), self._run.device, self._run.cut.padding, self._run.longest)


def _windows(prepared: Iterable[Prepared[Made]], size: int) -> Iterator[list[Prepared[Made]]]:
    iterator = iter(prepared)
    while window := list(itertools.islice(iterator, size)):
        yield window


def _key(parts: Iterable[bytes], view: int) -> Key:
    digest = hashlib.blake2b(view.to_bytes(8, "little"), digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
