"""Which batches come out of a stream, and how do they get ready in time?

One thread reads, cuts, passes over and shuffles; others decode, in order. Nothing is kept but the shuffle buffer, what
waits to be decoded, and a few records of which the artifact is proven.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from finetune.data.bad_records import BadContent, BadRecords
from finetune.data.batches import Batch, BatchOptions
from finetune.data.kept_records import KeptRecords
from finetune.data.labels import LabelMap
from finetune.data.look_ahead import Crew, Supply
from finetune.data.order import batch_bounds, record_seed
from finetune.data.record import Content, Record
from finetune.data.stream_groups import Alone, Group, ReadAhead, Sharing
from finetune.data.stream_order import StreamPosition, grouped, shuffled
from finetune.data.stream_source import RecordSource, StreamRecord
from finetune.data.transforms import Transform
from finetune.errors import DataError, did_you_mean

_log = logging.getLogger(__name__)

_KEPT = 16


@dataclass(frozen=True, slots=True)
class StreamData:
    """The records of a stream, and what makes examples of them.

    Attributes:
        source: of the channel.
        label_map: numbers the classes.
        transform: makes examples and batches.
        count: records of an epoch, perhaps as an estimate; `None` where nobody knows.
        total: the same with those that are held out, exactly.
        class_counts: records of each class in the order of the labels; `None` where nobody knows.
        buffer: records among which the next one is drawn, where the order is shuffled.
    """

    source: RecordSource
    label_map: LabelMap
    transform: Transform
    count: int | None
    class_counts: tuple[int, ...] | None
    buffer: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class _Example:
    number: int
    inputs: dict[str, Tensor]
    content: Content
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bad:
    record: StreamRecord
    reason: str


_Prepared = tuple[Group, list[_Example | _Bad]]


class StreamBatches:
    """The batches of each epoch of a stream: a function of options, epoch, and the order in which the records come.

    Attributes:
        channel: name of the channel.
        label_map: numbers the classes.
        position: what a restarted job needs to know of the epoch that runs.
        supply: prepares them.
    """

    def __init__(
        self, data: StreamData, options: BatchOptions, bad_records: BadRecords, sharing: Sharing | None = None
    ) -> None:
        """Open nothing yet; this process is alone where nobody says how several share the stream."""
        self.channel = data.source.channel
        self.label_map = data.label_map
        self.position = StreamPosition()
        self._data = data
        self._options = options
        self._bad_records = bad_records
        self._sharing = sharing or Alone()
        self._pins = options.pin_memory and torch.cuda.is_available()
        self._kept: dict[int, Record] = {}
        self.supply = Supply(options.workers, options.most_workers)

    @property
    def expected(self) -> int | None:
        """Batches of an epoch, where its records are counted."""
        return None if self._data.count is None else len(batch_bounds(self._data.count, self._options.batch_size))

    def targets(self) -> Tensor | None:
        """Targets of an epoch in any order, where the classes were counted."""
        counts = self._data.class_counts
        if counts is None:
            return None
        classes = torch.eye(len(counts)) if self.label_map.multi_label else torch.arange(len(counts))
        return classes.repeat_interleave(torch.tensor(counts), dim=0)

    def key(self, position: int) -> str:
        """What the record at a position is called."""
        return f"record {position}"

    def samples(self, positions: Sequence[int], most: int) -> list[tuple[int, Record]]:
        """Some records that are still there, each with its place in `positions`."""
        found = [(row, self._kept[position]) for row, position in enumerate(positions) if position in self._kept]
        return found[:most]

    def kept(self) -> KeptRecords:
        """The few records that are kept."""
        return KeptRecords(self.channel, self._data.source.task, tuple(self._kept.values()))

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of the next pipe; with `first`, after those that `position` counts as used.

        Raises:
            DataError: the stream is damaged or empty, more records are bad than allowed, or a class is unknown.
            Stopped: the job was asked to stop.
        """
        resumed = first > 0 and self.position.epoch == epoch
        if resumed and self.position.ended:
            return
        if not resumed:
            self.position.begin(epoch)
        self._data.source.stop.clear()
        kept: dict[int, Record] = {}
        with closing(self._prepared(epoch, resumed=resumed)) as prepared:
            for group, examples in prepared:
                batch = self._assemble(examples, kept)
                # In another pass, the same numbers may be those of other records.
                self._kept = kept
                self.position.use(group.identities)
                yield batch
        self.position.ended = True
        self._compare_count(epoch)

    def _compare_count(self, epoch: int) -> None:
        brought = self.position.used + self._data.source.others
        if self._data.total not in (None, brought):
            _log.warning(
                "channel %r: epoch %d brought %d records, not %d; see whether the stream is whole",
                self.channel,
                epoch + 1,
                brought,
                self._data.total,
            )

    def _prepared(self, epoch: int, *, resumed: bool) -> Generator[_Prepared, None, None]:
        source, read = self._data.source, partial(self._groups, epoch, resumed=resumed)
        with closing(ReadAhead(partial(self._sharing.groups, source, read), source.stop)) as groups:
            if self.supply.size:
                yield from self.supply.ahead(groups, partial(self._submit, epoch))
            else:
                yield from self.supply.alone(groups, lambda group: (group, self._examples(group.records, epoch)))

    def _groups(self, epoch: int, *, resumed: bool) -> Generator[list[StreamRecord], None, None]:
        with closing(self._data.source.read_next()) as records:
            size = self._data.buffer if self._options.shuffle else 1
            ordered = shuffled(records, size, self._options.seed, epoch)
            rest = self.position.unused(ordered, self.channel) if resumed else ordered
            yield from grouped(rest, self._options.batch_size)

    def _submit(self, epoch: int, crew: Crew, group: Group) -> Future[_Prepared]:
        """Cut a batch into a piece for each thread, so that the first one of an epoch is ready soon."""
        records = group.records
        size = max(1, -(-len(records) // crew.size))
        pieces = [
            crew.submit(partial(self._examples, records[start : start + size], epoch))
            for start in range(0, len(records), size)
        ]
        # Calls begin in order: when this one does, its pieces are done or at work in other threads.
        return crew.submit(lambda: (group, [example for piece in pieces for example in piece.result()]))

    def _examples(self, records: Sequence[StreamRecord], epoch: int) -> list[_Example | _Bad]:
        return [self._example(record, epoch) for record in records]

    def _example(self, record: StreamRecord, epoch: int) -> _Example | _Bad:
        key = self.key(record.number)
        try:
            decoded = record.decode()
            inputs = self._data.transform(decoded.content, self._randomness(epoch, record))
        except BadContent as error:
            return _Bad(record, str(error))
        except json.JSONDecodeError as error:
            return _Bad(record, f"is not JSON ({error.msg} at column {error.colno})")
        except UnicodeDecodeError as error:
            return _Bad(record, f"is not UTF-8 ({error.reason} at byte {error.start})")
        except ValueError as error:
            return _Bad(record, str(error))
        return _Example(record.number, inputs, decoded.content, self._classes(decoded.labels, key))

    def _classes(self, labels: tuple[str, ...], key: str) -> tuple[str, ...]:
        """The names of the classes.

        Raises:
            DataError: a label names none.
        """
        known = []
        for label in labels:
            name = self.label_map.named(label)
            if name is None:
                raise DataError(
                    f"channel {self.channel!r}: {key} has the class {label!r}, which nobody announced"
                    f"{did_you_mean(label, self.label_map.names)}; name every class in class_names or in the"
                    " file of a channel 'labels', or announce none to have a first pass look for them"
                )
            known.append(name)
        return tuple(known)

    def _randomness(self, epoch: int, record: StreamRecord) -> random.Random | None:
        if not self._options.augment:
            return None
        return random.Random(record_seed(self._options.seed, epoch, str(record.identity)))  # noqa: S311 - nothing secret

    def _assemble(self, examples: Sequence[_Example | _Bad], kept: dict[int, Record]) -> Batch:
        self._note(one for one in examples if isinstance(one, _Bad))
        good = [one for one in examples if isinstance(one, _Example)]
        for one in good:
            if len(kept) < _KEPT:
                kept[one.number] = Record(self.key(one.number), one.content, one.labels)
        inputs = self._data.transform.collate([one.inputs for one in good])
        targets = self.label_map.targets([one.labels for one in good])
        if self._pins:
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
            targets = targets.pin_memory()
        return Batch(inputs, targets, tuple(one.number for one in good))

    def _note(self, bad: Iterable[_Bad]) -> None:
        """Note records by their content, since their numbers change where the order does; equal ones count apart.

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
