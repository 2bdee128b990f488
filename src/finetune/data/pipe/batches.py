"""Builds the batches of a record stream and prepares them ahead of time.

One thread reads, splits into records, skips and shuffles; others decode, in order. Only the shuffle buffer, the records
waiting to be decoded, and a few records for verifying the artifact are kept in memory.
"""

from __future__ import annotations

import copy
import logging
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from finetune.data.bad_records import BadRecords
from finetune.data.in_memory import InMemoryReader
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batch, BatchOptions
from finetune.data.loading.order import batch_bounds, record_seed
from finetune.data.loading.prefetch import Prefetcher
from finetune.data.pipe.examples import Bad, Example, Prepared, understood
from finetune.data.pipe.groups import Alone, Group, ReadAhead, Sharing
from finetune.data.pipe.shuffle import StreamPosition, grouped, shuffled
from finetune.data.pipe.source import RecordSource, StreamRecord
from finetune.data.record import Content, Record
from finetune.data.transforms.base import Transform
from finetune.errors import DataError
from finetune.runtime.worker_pool import WorkerPool

_log = logging.getLogger(__name__)

_KEPT = 16
_Made = TypeVar("_Made")
Make = Callable[[StreamRecord, Content], _Made]
"""Builds an object from a record and its content; called by several threads."""


@dataclass(frozen=True, slots=True)
class StreamData:
    """The records of a stream, with the label map and transform that turn them into examples.

    Attributes:
        source: record source of the channel.
        label_map: maps class names to class indices.
        transform: makes examples and batches.
        count: records per epoch, possibly an estimate; `None` if unknown.
        class_counts: records of each class, in label map order; `None` if unknown.
        buffer: size of the shuffle buffer, in records.
        total: exact number of records per epoch including held-out records.
    """

    source: RecordSource
    label_map: LabelMap
    transform: Transform
    count: int | None
    class_counts: tuple[int, ...] | None
    buffer: int
    total: int | None = None


class StreamBatches:
    """The batches of each epoch of a stream: a function of options, epoch and the order of the records in the stream.

    Attributes:
        channel: name of the channel.
        label_map: maps class names to class indices.
        position: progress in the current epoch, for resuming a job.
        supply: prefetcher that prepares the batches.
    """

    def __init__(
        self, data: StreamData, options: BatchOptions, bad_records: BadRecords, sharing: Sharing | None = None
    ) -> None:
        """Initialize without opening the stream; without `sharing`, this process reads the stream alone."""
        self.channel = data.source.channel
        self.label_map = data.label_map
        self.position = StreamPosition()
        self._data = data
        self._options = options
        self._bad_records = bad_records
        self._sharing = sharing or Alone()
        self._pins = options.pin_memory and torch.cuda.is_available()
        self._kept: dict[int, Record] = {}
        self._begins = True
        self._lost: Counter[str] = Counter()
        self.supply = Prefetcher(options.workers, options.max_workers)

    @property
    def batch_size(self) -> int:
        """Records per batch."""
        return self._options.batch_size

    @property
    def count(self) -> int | None:
        """Records per epoch, possibly an estimate; `None` if unknown."""
        return self._data.count

    @property
    def expected(self) -> int | None:
        """Number of batches per epoch; `None` if the number of records is unknown."""
        return None if self._data.count is None else len(batch_bounds(self._data.count, self._options.batch_size))

    def targets(self) -> Tensor | None:
        """Return the targets of an epoch in any order; `None` if the class counts are unknown."""
        counts = self._data.class_counts
        if counts is None:
            return None
        classes = torch.eye(len(counts)) if self.label_map.multi_label else torch.arange(len(counts))
        return classes.repeat_interleave(torch.tensor(counts), dim=0)

    def key(self, position: int) -> str:
        """Return the display name of the record at a position."""
        return f"record {position}"

    def samples(self, positions: Sequence[int], most: int) -> list[tuple[int, Record]]:
        """Return at most `most` of the retained records, each with its index in `positions`."""
        found = [(row, self._kept[position]) for row, position in enumerate(positions) if position in self._kept]
        return found[:most]

    def kept(self) -> InMemoryReader:
        """Return a reader of the few retained records."""
        return InMemoryReader(self.channel, self._data.source.task, tuple(self._kept.values()))

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of the next pipe; with `first`, those after the batches that `position` counts as used.

        Raises:
            DataError: the stream is damaged or empty, more records are bad than allowed, or a class is unknown.
            JobStopped: the job was stopped.
        """
        with closing(self.prepare(epoch, first, partial(self.example, epoch))) as prepared:
            for one in prepared:
                yield self.use(one, self.collate([example.made for example in one.good]))
        self.finish(epoch)

    def prepare(self, epoch: int, first: int, make: Make[_Made]) -> Generator[Prepared[_Made], None, None]:
        """Yield the prepared batches of `iterate`, for consumers that read ahead.

        A batch counts as used once it is passed to `use`; call `finish` after the last batch of an epoch.

        Raises:
            DataError: the stream is damaged or empty, or a class is unknown.
            JobStopped: the job was stopped.
        """
        resumed = first > 0 and self.position.epoch == epoch
        if resumed and self.position.ended:
            return
        if not resumed:
            self.position.begin(epoch)
        self._lost.clear()
        self._data.source.stop.clear()
        self._begins = True
        with closing(self._prepared(epoch, make, resumed=resumed)) as prepared:
            yield from prepared

    def use(self, prepared: Prepared[_Made], inputs: dict[str, Tensor]) -> Batch:
        """Return the batch and count it as used.

        Args:
            prepared: the next prepared batch.
            inputs: model inputs, one row per good example.

        Raises:
            DataError: more records are bad than allowed.
        """
        self._note(one for one in prepared.examples if isinstance(one, Bad))
        if self._begins:
            # Record numbers may refer to different records in another pass.
            self._kept.clear()
            self._begins = False
        for one in prepared.good:
            if len(self._kept) < _KEPT:
                self._kept[one.number] = Record(self.key(one.number), one.content, one.labels)
        self.position.use(prepared.group.identities)
        targets = self.label_map.targets([one.labels for one in prepared.good])
        if self._pins:
            targets = targets.pin_memory()
        return Batch(inputs, targets, tuple(one.number for one in prepared.good))

    def example(self, epoch: int, record: StreamRecord, content: Content) -> dict[str, Tensor]:
        """Return the model inputs of a record, augmented as in `epoch`."""
        return self._data.transform(content, self._randomness(epoch, record))

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Collate examples into a batch, in pinned memory if enabled."""
        inputs = self._data.transform.collate(examples)
        return {name: tensor.pin_memory() for name, tensor in inputs.items()} if self._pins else inputs

    def finish(self, epoch: int) -> None:
        """Mark the epoch as finished, after all of its batches were used."""
        if self.position.ended:
            return
        self.position.ended = True
        self._check_classes()
        brought = self.position.used + self._data.source.others
        if self._data.total not in (None, brought):
            _log.warning(
                "channel %r: epoch %d brought %d records, not %d; see whether the stream is whole",
                self.channel,
                epoch + 1,
                brought,
                self._data.total,
            )

    def _prepared(self, epoch: int, make: Make[_Made], *, resumed: bool) -> Generator[Prepared[_Made], None, None]:
        source, read = self._data.source, partial(self._groups, epoch, resumed=resumed)
        with closing(ReadAhead(partial(self._sharing.groups, source, read), source.stop)) as groups:
            if self.supply.size:
                yield from self.supply.ahead(groups, partial(self._submit, make))
            else:
                yield from self.supply.alone(groups, lambda group: Prepared(group, self._examples(make, group.records)))

    def _groups(self, epoch: int, *, resumed: bool) -> Generator[list[StreamRecord], None, None]:
        with closing(self._data.source.read_next()) as records:
            size = self._data.buffer if self._options.shuffle else 1
            ordered = shuffled(records, size, self._options.seed, epoch)
            rest = self.position.unused(ordered, self.channel) if resumed else ordered
            yield from grouped(rest, self._options.batch_size)

    def _submit(self, make: Make[_Made], crew: WorkerPool, group: Group) -> Future[Prepared[_Made]]:
        """Split a batch into one piece per thread, so that the first batch of an epoch is ready sooner."""
        records = group.records
        size = max(1, -(-len(records) // crew.size))
        pieces = [
            crew.submit(partial(self._examples, make, records[start : start + size]))
            for start in range(0, len(records), size)
        ]
        # Calls start in order: once this one runs, its pieces are finished or running in other threads.
        return crew.submit(lambda: Prepared(group, [example for piece in pieces for example in piece.result()]))

    def _examples(self, make: Make[_Made], records: Sequence[StreamRecord]) -> list[Example[_Made] | Bad]:
        return [understood(record, self.key(record.number), self.channel, self.label_map, make) for record in records]

    def without_augmentation(self) -> StreamBatches:
        """Return the same stream, at the same position, without augmentation."""
        if not self._options.augment:
            return self
        other = copy.copy(self)
        other._options = replace(self._options, augment=False)
        return other

    def _randomness(self, epoch: int, record: StreamRecord) -> random.Random | None:
        if not self._options.augment:
            return None
        return random.Random(record_seed(self._options.seed, epoch, str(record.identity)))  # noqa: S311 - not cryptographic

    def _note(self, bad: Iterable[Bad]) -> None:
        """Note bad records by their content, since record numbers depend on the order; equal records count separately.

        Raises:
            DataError: more records are bad than allowed.
        """
        met: Counter[int] = Counter()
        for one in bad:
            identity = one.record.identity
            met[identity] += 1
            copy = self.position.times_used(identity) + met[identity]
            key = f"record {identity:016x}" + (f", copy {copy}," if copy > 1 else "")
            self._bad_records.note(key, f"(number {one.record.number}, from 0) {one.reason}")
            self._note_classes(one)

    def _note_classes(self, bad: Bad) -> None:
        """Count the classes of a bad record if its labels can be read."""
        with suppress(ValueError):
            names = {self.label_map.named(label) for label in bad.record.decode().labels}
            self._lost.update(name for name in names if name is not None)

    def _check_classes(self) -> None:
        """Check that every class had a readable training record, unless no class had one (then nothing is learned).

        Raises:
            DataError: a class had no readable record.
        """
        counts = self._data.class_counts
        if counts is None or not self._options.shuffle:
            return
        known = {name: count for name, count in zip(self.label_map.names, counts, strict=True) if count}
        lost = [name for name, count in known.items() if self._lost[name] == count]
        if lost and len(lost) < len(known):
            raise DataError(
                f"channel {self.channel!r}: none of the {known[lost[0]]} training records of class {lost[0]!r} can be"
                " read; repair them, or remove the class"
            )
