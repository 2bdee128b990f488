"""Builds the batches of each epoch of an indexed dataset and prepares them ahead of time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.bad_records import BadRecordError, BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.examples import ExampleFactory, UncachedExamples
from finetune.data.loading.length_grouping import ExampleLengths, LengthGroupedBatches
from finetune.data.loading.order import batch_bounds, epoch_order, record_seed
from finetune.data.loading.prefetch import Prefetcher, submit_batch
from finetune.data.loading.sampler import BalancedSampler
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.record import Content, Record
from finetune.errors import DataError
from finetune.runtime.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples that are processed together.

    Attributes:
        inputs: model inputs by name, one row per example.
        targets: int64 `[rows]`, or float32 `[rows, classes]` for multi-label tasks.
        positions: dataset position of each row. Bad records have no row, so a batch can be empty.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    positions: tuple[int, ...]


class BatchSource(Protocol):
    """Interface of a source of batches, independent of where the records come from."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    @property
    def label_map(self) -> LabelMap:
        """Maps class names to class indices."""
        ...

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches per epoch, or `None` if it is unknown in advance."""
        ...

    @property
    def prefetcher(self) -> Prefetcher:
        """Prepares the batches."""
        ...

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield the share of this process in the batches of an epoch, starting at batch `first`.

        Raises:
            JobStopped: the job was stopped while waiting for records.
        """
        ...

    def targets(self) -> Tensor | None:
        """Return the targets of all records in any order, or `None` if they are unknown in advance."""
        ...

    def key(self, position: int) -> str:
        """Return the key of the record at a position."""
        ...

    def sample_records(self, positions: Sequence[int], limit: int) -> list[tuple[int, Record]]:
        """Return at most `limit` records with their content, each with its index in `positions`."""
        ...


@dataclass(frozen=True, slots=True)
class HostShard:
    """The part of a dataset that this host has, if its records are distributed over several hosts.

    Attributes:
        positions: positions of the records of this host.
        batches: number of batches per epoch of the host that has the most.
    """

    positions: range
    batches: int


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options for building the batches of a dataset.

    Attributes:
        batch_size: records per batch; the last two batches may be smaller (see `batch_bounds`).
        seed: seed of order and augmentation.
        shuffle: use a different order in each epoch instead of the dataset's order.
        augment: apply random augmentation to the examples.
        workers: threads that prepare batches; with 0, the calling thread does. Results are bit-identical.
        pin_memory: put batches in pinned memory; no effect without a GPU.
        max_workers: maximum number of threads when batches are late.
        length: returns the length of an example given its content (0 if it is bad), to group batches by length.
        host: the part of this host, from which all batches are made; `None` if every host has all records.
        sampler: draws the records of each epoch with replacement; `None` to use each record once.
    """

    batch_size: int
    seed: int
    shuffle: bool
    augment: bool
    workers: int
    pin_memory: bool
    max_workers: int = 0
    length: Callable[[Content], int] | None = None
    host: HostShard | None = None
    sampler: BalancedSampler | None = None

    def randomness(self, epoch: int, key: str, repetition: int = 0) -> random.Random | None:
        """Return the random numbers for augmenting a record in an epoch; `None` without augmentation."""
        if not self.augment:
            return None
        return random.Random(record_seed(self.seed, epoch, key, repetition))  # noqa: S311 - not cryptographic


@dataclass(frozen=True, slots=True)
class _Example:
    position: int
    inputs: dict[str, Tensor]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bad:
    key: str
    reason: str


_Prepared = tuple[Batch, list[_Bad]]


class Batches:
    """The batches of each epoch, a pure function of dataset, options and epoch.

    Attributes:
        dataset: source of the records.
        prefetcher: prefetcher that prepares the batches.
    """

    def __init__(self, dataset: Dataset, options: BatchOptions, bad_records: BadRecords) -> None:
        """Initialize without preparing any batch.

        Args:
            dataset: source of the records.
            options: how batches are built.
            bad_records: collects records that cannot be read or decoded, in batch order.
        """
        self.dataset = dataset
        self._options = options
        self._bad_records = bad_records
        self._positions = range(len(dataset)) if options.host is None else options.host.positions
        self._bounds = batch_bounds(len(self._positions), options.batch_size)
        self._pins = options.pin_memory and torch.cuda.is_available()
        self.prefetcher = Prefetcher(options.workers, options.max_workers)
        self._example_factory: ExampleFactory = UncachedExamples(dataset.transform)
        self._by_length: LengthGroupedBatches | None = None
        if options.length:
            seed = options.seed if options.shuffle else None
            self._by_length = LengthGroupedBatches(
                ExampleLengths(dataset.reader, dataset.indices, options.length), seed, options.workers
            )

    def __len__(self) -> int:
        """Number of batches in an epoch; of the host that has the most, if hosts differ."""
        return len(self._bounds) if self._options.host is None else self._options.host.batches

    @property
    def is_sharded(self) -> bool:
        """Whether every host has its own records."""
        return self._options.host is not None

    @property
    def batch_size(self) -> int:
        """Records per batch."""
        return self._options.batch_size

    @property
    def is_augmented(self) -> bool:
        """Whether examples are augmented."""
        return self._options.augment

    def without_augmentation(self) -> Batches:
        """Return the same batches without augmentation."""
        if not self._options.augment:
            return self
        return self._copy(replace(self._options, augment=False), UncachedExamples(self.dataset.transform))

    def without_length_grouping(self) -> Batches:
        """Return batches of the same sizes, without grouping by length."""
        return self._copy(replace(self._options, length=None), self._example_factory)

    def with_examples(self, examples: ExampleFactory) -> Batches:
        """Return the same batches with examples built by `examples`, which may cache them."""
        return self._copy(self._options, examples)

    @property
    def length_grouping(self) -> LengthGroupedBatches | None:
        """Groups the batches by length; `None` if they are not grouped."""
        return self._by_length

    def _copy(self, options: BatchOptions, examples: ExampleFactory) -> Batches:
        other = Batches(self.dataset, options, self._bad_records)
        other.prefetcher, other._example_factory = self.prefetcher, examples
        if options.length is not None:
            # Keep the lengths that are known.
            other._by_length = self._by_length
        return other

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self.dataset.reader.channel

    @property
    def label_map(self) -> LabelMap:
        """Maps class names to class indices."""
        return self.dataset.label_map

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches in an epoch."""
        return len(self)

    def targets(self) -> Tensor:
        """Return the targets of all records, in dataset order."""
        dataset = self.dataset
        return dataset.label_map.targets([dataset.reader.labels(index) for index in dataset.indices])

    def key(self, position: int) -> str:
        """Return the key of the record at a position."""
        return self.dataset.key(position)

    def sample_records(self, positions: Sequence[int], limit: int) -> list[tuple[int, Record]]:
        """Return records spread evenly over `positions`, each with its index in `positions`."""
        readable = [row for row, position in enumerate(positions) if position in self._positions]
        count = len(readable)
        rows = sorted({readable[round(i * (count - 1) / max(1, limit - 1))] for i in range(min(count, limit))})
        return [(row, self.dataset.reader.read(self.dataset.indices[int(positions[row])])) for row in rows]

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the batches of an epoch, starting at batch `first`; others are not read.

        Closing or dropping the generator stops the threads.

        Raises:
            DataError: more records are bad than `bad_records` allows, or all records of a class are.
        """
        yield from self.prepare(self.share_of(share).select(self.positions(epoch, first)), epoch)

    def share_of(self, share: Share) -> Share:
        """Return the share of this process in the batches of `positions`."""
        return share.of_host() if self.is_sharded else share

    def positions(self, epoch: int, first: int = 0) -> Generator[list[int], None, None]:
        """Yield the record positions of each batch of an epoch, starting at batch `first`; of this host's batches.

        The number of records is added to the position of a record for each time it was drawn before in the epoch.
        """
        order = self._order(epoch)
        if self._by_length is None:
            for start, stop in self._bounds[first:]:
                yield order[start:stop].tolist()
            return

        with closing(self._by_length.batches(order, self._bounds, epoch, first)) as batches:
            for positions in batches:
                yield positions.tolist()

    def _order(self, epoch: int) -> NDArray[np.int64]:
        count, options = len(self._positions), self._options
        if options.sampler is not None:
            draws = options.sampler.order(options.seed, epoch)
            return draws // count * len(self.dataset) + draws % count + self._positions.start
        order = epoch_order(count, options.seed, epoch) if options.shuffle else np.arange(count)
        return order + self._positions.start

    def prepare(self, lists: Iterable[Sequence[int]], epoch: int) -> Generator[Batch, None, None]:
        """Yield one batch per list of positions, augmented as in `epoch`.

        Raises:
            DataError: more records are bad than `bad_records` allows.
        """
        if self.prefetcher.size:
            prepared = self.prefetcher.prefetch(lists, partial(self._submit, epoch))
        else:
            prepared = self.prefetcher.run_inline(
                lists, lambda positions: self._assemble(self._examples(positions, epoch, lambda: False))
            )
        with closing(prepared):
            for batch, bad in prepared:
                for record in bad:
                    self._bad_records.note(record.key, record.reason)
                yield batch
        if len(self._bad_records) and self._options.shuffle:
            self._check_classes()

    def _check_classes(self) -> None:
        """Check that every class has a readable training record, unless no class has one (then nothing is learned).

        Bad records that other processes of the job have found count as well.

        Raises:
            DataError: a class has no readable record.
        """
        dataset, reasons = self.dataset, dict(self._bad_records.listing())
        counts: Counter[str] = Counter()
        bad: dict[str, list[str]] = {}
        for position, index in enumerate(dataset.indices):
            names, key = set(dataset.reader.labels(index)), dataset.key(position)
            counts.update(names)
            for name in names if key in reasons else ():
                bad.setdefault(name, []).append(key)
        unreadable = [name for name, keys in bad.items() if len(keys) == counts[name]]
        if unreadable and len(unreadable) < len(counts):
            key = bad[unreadable[0]][0]
            reason = reasons[key]
            raise DataError(
                f"channel {dataset.reader.channel!r}: none of the {counts[unreadable[0]]} training records of class"
                f" {unreadable[0]!r} can be read: {key} {reason}; repair them, or remove the class"
            )

    def _submit(self, epoch: int, pool: WorkerPool, positions: Sequence[int]) -> Future[_Prepared]:
        prepare = partial(self._examples, epoch=epoch, stopped=pool.stopping.is_set)
        return submit_batch(pool, positions, prepare, self._assemble)

    def _examples(self, positions: Sequence[int], epoch: int, stopped: Callable[[], bool]) -> list[_Example | _Bad]:
        return [self._example(position, epoch) for position in positions if not stopped()]

    def _example(self, draw: int, epoch: int) -> _Example | _Bad:
        repetition, position = divmod(draw, len(self.dataset))
        key, index, reader = self.dataset.key(position), self.dataset.indices[position], self.dataset.reader
        try:
            randomness = self._options.randomness(epoch, key, repetition)
            inputs = self._example_factory.example(position, lambda: reader.read(index).content, randomness)
        except BadRecordError as error:
            return _Bad(key, str(error))
        except DataError as error:
            reason = str(error).removeprefix(f"channel {self.dataset.reader.channel!r}: {key} ")
            return _Bad(key, reason)
        return _Example(position, inputs, reader.labels(index))

    def _assemble(self, examples: Sequence[_Example | _Bad]) -> _Prepared:
        good = [example for example in examples if isinstance(example, _Example)]
        inputs = self.dataset.transform.collate([example.inputs for example in good])
        targets = self.dataset.label_map.targets([example.labels for example in good])
        if self._pins:
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
            targets = targets.pin_memory()
        batch = Batch(inputs, targets, tuple(example.position for example in good))
        return batch, [example for example in examples if isinstance(example, _Bad)]
