"""Builds the batches of a record stream and prepares them ahead of time.

One thread reads, splits into records, skips and shuffles; others decode, in order. Only the shuffle buffer, the records
waiting to be decoded, and a few records for verifying the artifact are kept in memory.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
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
from finetune.data.loading.order import batch_bounds
from finetune.data.loading.prefetch import Prefetcher, submit_batch
from finetune.data.loading.shares import WHOLE_BATCHES, RowShare, Share
from finetune.data.pipe.batch_shares import BatchShare, ReadAhead, SingleProcess, StreamSharing
from finetune.data.pipe.examples import BadExample, Example, PreparedBatch, decode_example
from finetune.data.pipe.shuffle import StreamPosition, batch_records, shuffle_records
from finetune.data.pipe.source import RecordSource, StreamRecord
from finetune.data.record import Content, Record
from finetune.data.transforms.base import Transform
from finetune.errors import DataError
from finetune.runtime.worker_pool import WorkerPool

_log = logging.getLogger(__name__)

_MAX_RETAINED = 16
_Result = TypeVar("_Result")
Build = Callable[[StreamRecord, Content], _Result]
"""Builds an object from a record and its content; called by several threads."""


@dataclass(frozen=True, slots=True)
class StreamHost:
    """This host among those over which the objects of a channel are distributed.

    Attributes:
        index: index of this host.
        hosts: number of hosts.
        batches: number of batches per epoch of the host that has the most, possibly an estimate; `None` if unknown.
    """

    index: int
    hosts: int
    batches: int | None


@dataclass(frozen=True, slots=True)
class StreamData:
    """The records of a stream, with the label map and transform that turn them into examples.

    Attributes:
        source: record source of the channel.
        label_map: maps class names to class indices.
        transform: makes examples and batches.
        count: records per epoch of all hosts, possibly an estimate; `None` if unknown.
        class_counts: records of each class, in label map order; `None` if unknown.
        buffer: size of the shuffle buffer, in records.
        total: exact number of records per epoch including held-out records.
        host: this host, if every host has its own records.
    """

    source: RecordSource
    label_map: LabelMap
    transform: Transform
    count: int | None
    class_counts: tuple[int, ...] | None
    buffer: int
    total: int | None = None
    host: StreamHost | None = None


class StreamBatches:
    """The batches of each epoch of a stream: a function of options, epoch and the order of the records in the stream.

    Attributes:
        channel: name of the channel.
        label_map: maps class names to class indices.
        position: progress in the current epoch, for resuming a job.
        prefetcher: prefetcher that prepares the batches.
    """

    def __init__(
        self, data: StreamData, options: BatchOptions, bad_records: BadRecords, sharing: StreamSharing | None = None
    ) -> None:
        """Initialize without opening the stream; without `sharing`, this process reads the stream alone."""
        self.channel = data.source.channel
        self.label_map = data.label_map
        self.position = StreamPosition(self.channel, None if data.host is None else data.host.index)
        self._data = data
        self._options = options
        self._bad_records = bad_records
        self._sharing = sharing or SingleProcess()
        self._pins = options.pin_memory and torch.cuda.is_available()
        self._retained: dict[int, Record] = {}
        self._is_first_batch = True
        self._bad_by_class: Counter[str] = Counter()
        self.prefetcher = Prefetcher(options.workers, options.max_workers)

    @property
    def batch_size(self) -> int:
        """Records per batch."""
        return self._options.batch_size

    @property
    def count(self) -> int | None:
        """Records per epoch, possibly an estimate; `None` if unknown."""
        return self._data.count

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches per epoch; `None` if the number of records is unknown."""
        if self._data.host is not None:
            return self._data.host.batches
        return None if self._data.count is None else len(batch_bounds(self._data.count, self._options.batch_size))

    def targets(self) -> Tensor | None:
        """Return the targets of an epoch in any order; `None` if the class counts are unknown."""
        counts = self._data.class_counts
        if counts is None:
            return None
        classes = self.label_map.targets([(name,) for name in self.label_map.names])
        return classes.repeat_interleave(torch.tensor(counts), dim=0)

    def key(self, position: int) -> str:
        """Return the display name of the record at a position."""
        host = self._data.host
        if host is None:
            return f"record {position}"
        return f"record {position // host.hosts} of host {position % host.hosts + 1}"

    def _position(self, number: int) -> int:
        """Return the position of the record with a number on this host, which differs from those on other hosts."""
        host = self._data.host
        return number if host is None else number * host.hosts + host.index

    @property
    def is_sharded(self) -> bool:
        """Whether every host has its own records."""
        return self._data.host is not None

    def share_of(self, share: Share) -> Share:
        """Return the share of this process in the batches that this host reads."""
        return share.of_host() if self.is_sharded else share

    def sample_records(self, positions: Sequence[int], limit: int) -> list[tuple[int, Record]]:
        """Return at most `limit` of the retained records, each with its index in `positions`."""
        records = [
            (row, self._retained[position]) for row, position in enumerate(positions) if position in self._retained
        ]
        return records[:limit]

    def retained_records(self) -> InMemoryReader:
        """Return a reader of the few retained records."""
        return InMemoryReader(self.channel, self._data.source.task, tuple(self._retained.values()))

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the next pipe; with `first`, after the batches that `position` counts as used.

        Raises:
            DataError: the stream is damaged or empty, more records are bad than allowed, or a class is unknown.
            JobStopped: the job was stopped.
        """
        with closing(self.prepare(epoch, first, partial(self.example, epoch), self.share_of(share))) as prepared:
            for batch in prepared:
                self.use(batch)
                for examples in batch.good:
                    yield self.batch(examples, self.collate([example.result for example in examples]))
        self.finish(epoch)

    def prepare(
        self, epoch: int, first: int, build: Build[_Result], share: RowShare = WHOLE_BATCHES
    ) -> Generator[PreparedBatch[_Result], None, None]:
        """Yield this process's share of every global batch, for consumers that read ahead.

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
        self._bad_by_class.clear()
        self._data.source.stop.clear()
        self._is_first_batch = True
        with closing(self._prepared(epoch, build, share, resumed=resumed)) as prepared:
            yield from prepared

    def use(self, prepared: PreparedBatch[_Result]) -> None:
        """Count the records of a global batch as used, and note those of this process that are bad.

        Raises:
            DataError: more records are bad than allowed.
        """
        self._note(prepared)
        if self._is_first_batch:
            # Record numbers may refer to different records in another pass.
            self._retained.clear()
            self._is_first_batch = False
        for example in itertools.chain.from_iterable(prepared.good):
            if len(self._retained) < _MAX_RETAINED:
                position = self._position(example.number)
                self._retained[position] = Record(self.key(position), example.content, example.labels)
        self.position.use(prepared.share.identities)

    def batch(self, examples: Sequence[Example[_Result]], inputs: dict[str, Tensor]) -> Batch:
        """Return a batch of good examples.

        Args:
            examples: the examples.
            inputs: model inputs, one row per example.
        """
        targets = self.label_map.targets([example.labels for example in examples])
        if self._pins:
            targets = targets.pin_memory()
        return Batch(inputs, targets, tuple(self._position(example.number) for example in examples))

    def example(self, epoch: int, record: StreamRecord, content: Content) -> dict[str, Tensor]:
        """Return the model inputs of a record, augmented as in `epoch`."""
        return self._data.transform(content, self._options.randomness(epoch, str(record.identity)))

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
        record_count = self.position.used + self._data.source.other_records
        if self._data.total not in (None, record_count):
            _log.warning(
                "channel %r: epoch %d had %d records instead of %d; check that the stream is complete",
                self.channel,
                epoch + 1,
                record_count,
                self._data.total,
            )

    def _prepared(
        self, epoch: int, build: Build[_Result], share: RowShare, *, resumed: bool
    ) -> Generator[PreparedBatch[_Result], None, None]:
        source, read = self._data.source, partial(self._batches, epoch, resumed=resumed)
        shares_of_epoch = partial(self._sharing.shares, source, read, share)
        with closing(ReadAhead(shares_of_epoch, source.stop, share.local_size)) as shares:
            if self.prefetcher.size:
                yield from self.prefetcher.prefetch(shares, partial(self._submit, build))
            else:
                yield from self.prefetcher.run_inline(
                    shares, lambda share: PreparedBatch(share, [self._examples(build, part) for part in share.records])
                )

    def _batches(self, epoch: int, *, resumed: bool) -> Generator[list[StreamRecord], None, None]:
        with closing(self._data.source.read_next()) as records:
            size = self._data.buffer if self._options.shuffle else 1
            ordered = shuffle_records(records, size, self._options.seed, epoch)
            remaining = self.position.skip_used(ordered, self.channel) if resumed else ordered
            yield from batch_records(remaining, self._options.batch_size)

    def _submit(self, build: Build[_Result], pool: WorkerPool, share: BatchShare) -> Future[PreparedBatch[_Result]]:
        def assemble(examples: list[Example[_Result] | BadExample]) -> PreparedBatch[_Result]:
            remaining = iter(examples)
            return PreparedBatch(share, [list(itertools.islice(remaining, len(part))) for part in share.records])

        records = list(itertools.chain.from_iterable(share.records))
        return submit_batch(pool, records, partial(self._examples, build), assemble)

    def _examples(self, build: Build[_Result], records: Sequence[StreamRecord]) -> list[Example[_Result] | BadExample]:
        return [
            decode_example(record, self.key(self._position(record.number)), self.channel, self.label_map, build)
            for record in records
        ]

    def without_augmentation(self) -> StreamBatches:
        """Return the same stream, at the same position, without augmentation."""
        if not self._options.augment:
            return self
        other = copy.copy(self)
        other._options = replace(self._options, augment=False)
        return other

    def _note(self, prepared: PreparedBatch[_Result]) -> None:
        """Note bad records by their content, since record numbers depend on the order; equal records count separately.

        Raises:
            DataError: more records are bad than allowed.
        """
        for example, equal_before in prepared.bad():
            identity = example.record.identity
            copy = self.position.times_used(identity) + equal_before + 1
            key = f"record {identity:016x}" + (f", copy {copy}," if copy > 1 else "")
            self._bad_records.note(key, f"(number {example.record.number}, from 0) {example.reason}")
            self._note_classes(example)

    def _note_classes(self, bad: BadExample) -> None:
        """Count the classes of a bad record if its labels can be read."""
        with suppress(ValueError):
            names = {self.label_map.resolve(label) for label in bad.record.decode().labels}
            self._bad_by_class.update(name for name in names if name is not None)

    def _check_classes(self) -> None:
        """Check that every class had a readable training record, unless no class had one (then nothing is learned).

        Raises:
            DataError: a class had no readable record.
        """
        counts = self._data.class_counts
        if counts is None or not self._options.shuffle:
            return
        class_counts = {name: count for name, count in zip(self.label_map.names, counts, strict=True) if count}
        unreadable = [name for name, count in class_counts.items() if self._bad_by_class[name] == count]
        if unreadable and len(unreadable) < len(class_counts):
            raise DataError(
                f"channel {self.channel!r}: none of the {class_counts[unreadable[0]]} training records of class"
                f" {unreadable[0]!r} can be read; repair them, or remove the class"
            )
