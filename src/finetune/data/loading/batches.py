"""Which batches does an epoch have, and how do they get ready in time?"""

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
from torch import Tensor

from finetune.data.bad_records import BadContent, BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.examples import Examples, MadeAnew
from finetune.data.loading.length_grouping import LikeLength, Measure
from finetune.data.loading.order import batch_bounds, epoch_order, record_seed
from finetune.data.loading.prefetch import Supply
from finetune.data.record import Content, Record
from finetune.errors import DataError
from finetune.runtime.worker_pool import Crew


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples that are processed together.

    Attributes:
        inputs: what the network takes, a row for each example.
        targets: int64 `[rows]`, or float32 `[rows, classes]` for multi-label tasks.
        positions: of the rows' records in the dataset. Bad records have no row, so there may be none at all.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    positions: tuple[int, ...]


class BatchSource(Protocol):
    """The batches of each epoch, wherever the records come from."""

    @property
    def channel(self) -> str:
        """Name of the channel, for messages."""
        ...

    @property
    def label_map(self) -> LabelMap:
        """Numbers the classes."""
        ...

    @property
    def expected(self) -> int | None:
        """Batches of an epoch, where that is known beforehand."""
        ...

    @property
    def supply(self) -> Supply:
        """Prepares the batches."""
        ...

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number `first` on.

        Raises:
            JobStopped: the job was asked to stop while it waited for records.
        """
        ...

    def targets(self) -> Tensor | None:
        """Targets of all records in any order, where they are known beforehand."""
        ...

    def key(self, position: int) -> str:
        """Identity of the record at a position."""
        ...

    def samples(self, positions: Sequence[int], most: int) -> list[tuple[int, Record]]:
        """Some records with their content, each with its place in `positions`."""
        ...


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How batches are made of a dataset.

    Attributes:
        batch_size: records of a batch; the last two may have fewer (see `batch_bounds`).
        seed: of order and augmentation.
        shuffle: another order in each epoch, or always that of the dataset.
        augment: vary the examples.
        workers: threads that prepare batches; with 0 the caller does. The batches are the same bits.
        pin_memory: put batches where a GPU can fetch them by itself; nothing where there is no GPU.
        most_workers: threads that may prepare where batches are late.
        length: tells how long an example of a content is, where batches of like length are wanted; 0 if it is bad.
    """

    batch_size: int
    seed: int
    shuffle: bool
    augment: bool
    workers: int
    pin_memory: bool
    most_workers: int = 0
    length: Callable[[Content], int] | None = None


@dataclass(frozen=True, slots=True)
class _Example:
    position: int
    inputs: dict[str, Tensor]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bad:
    key: str
    reason: str
    labels: tuple[str, ...]


_Prepared = tuple[Batch, list[_Bad]]


class Batches:
    """The batches of each epoch, a pure function of dataset, options and epoch.

    Attributes:
        dataset: what the batches are made of.
        supply: prepares them.
    """

    def __init__(self, dataset: Dataset, options: BatchOptions, bad_records: BadRecords) -> None:
        """Prepare nothing yet.

        Args:
            dataset: what the batches are made of.
            options: how.
            bad_records: where records that cannot be read or decoded are noted, in the order of the batches.
        """
        self.dataset = dataset
        self._options = options
        self._bad_records = bad_records
        self._bounds = batch_bounds(len(dataset), options.batch_size)
        self._pins = options.pin_memory and torch.cuda.is_available()
        self.supply = Supply(options.workers, options.most_workers)
        self._made: Examples = MadeAnew(dataset.transform)
        self._lost: dict[str, dict[str, str]] = {}
        self._by_length: LikeLength | None = None
        if options.length:
            seed = options.seed if options.shuffle else None
            self._by_length = LikeLength(
                Measure(dataset.reader, dataset.indices, options.length), seed, options.workers
            )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._bounds)

    @property
    def varies(self) -> bool:
        """Whether examples are varied."""
        return self._options.augment

    def without_augmentation(self) -> Batches:
        """The same batches of examples that are not varied."""
        if not self._options.augment:
            return self
        return self._like(replace(self._options, augment=False), MadeAnew(self.dataset.transform))

    def of_any_length(self) -> Batches:
        """Batches of the same sizes in which long examples meet short ones."""
        return self._like(replace(self._options, length=None), self._made)

    def keeping(self, examples: Examples) -> Batches:
        """The same batches of examples that somebody else makes, and may keep."""
        return self._like(self._options, examples)

    def _like(self, options: BatchOptions, examples: Examples) -> Batches:
        other = Batches(self.dataset, options, self._bad_records)
        other.supply, other._made = self.supply, examples
        return other

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self.dataset.reader.channel

    @property
    def label_map(self) -> LabelMap:
        """Numbers the classes."""
        return self.dataset.label_map

    @property
    def expected(self) -> int | None:
        """Number of batches in an epoch."""
        return len(self)

    def targets(self) -> Tensor:
        """Targets of all records, in the order of the dataset."""
        dataset = self.dataset
        return dataset.label_map.targets([dataset.reader.labels(index) for index in dataset.indices])

    def key(self, position: int) -> str:
        """Identity of the record at a position."""
        return self.dataset.key(position)

    def samples(self, positions: Sequence[int], most: int) -> list[tuple[int, Record]]:
        """Records spread over the positions, each with its place among them."""
        count = len(positions)
        rows = sorted({round(at * (count - 1) / max(1, most - 1)) for at in range(min(count, most))})
        return [(row, self.dataset.reader.read(self.dataset.indices[int(positions[row])])) for row in rows]

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number `first` on; earlier ones are not touched.

        Closing the generator, or dropping it, ends the threads.

        Raises:
            DataError: more records are bad than `bad_records` allows, or all of a class are.
        """
        yield from self.prepare(self.positions(epoch, first), epoch)

    def positions(self, epoch: int, first: int = 0) -> Generator[list[int], None, None]:
        """Yield the positions of the records of each batch of an epoch, from batch number `first` on."""
        count = len(self.dataset)
        order = epoch_order(count, self._options.seed, epoch) if self._options.shuffle else np.arange(count)
        if self._by_length is None:
            for start, stop in self._bounds[first:]:
                yield order[start:stop].tolist()
            return

        with closing(self._by_length.batches(order, self._bounds, epoch, first)) as arranged:
            for positions in arranged:
                yield positions.tolist()

    def prepare(self, lists: Iterable[Sequence[int]], epoch: int) -> Generator[Batch, None, None]:
        """Yield a batch for each list of positions, augmented as in `epoch`.

        Raises:
            DataError: more records are bad than `bad_records` allows.
        """
        if self.supply.size:
            prepared = self.supply.ahead(lists, partial(self._submit, epoch))
        else:
            prepared = self.supply.alone(
                lists, lambda positions: self._assemble(self._examples(positions, epoch, lambda: False))
            )
        with closing(prepared):
            for batch, bad in prepared:
                for record in bad:
                    self._bad_records.note(record.key, record.reason)
                    for name in record.labels:
                        self._lost.setdefault(name, {})[record.key] = record.reason
                yield batch
        if self._lost and self._options.shuffle:
            self._check_classes()

    def _check_classes(self) -> None:
        """Make sure that every class has a training record that can be read; without any class, nothing is learnt.

        Raises:
            DataError: a class has none.
        """
        dataset = self.dataset
        counts = Counter(name for at in dataset.indices for name in set(dataset.reader.labels(at)))
        lost = [name for name, bad in self._lost.items() if len(bad) == counts[name]]
        if lost and len(lost) < len(counts):
            key, reason = next(iter(self._lost[lost[0]].items()))
            raise DataError(
                f"channel {dataset.reader.channel!r}: none of the {counts[lost[0]]} training records of class"
                f" {lost[0]!r} can be read: {key} {reason}; repair them, or remove the class"
            )

    def _submit(self, epoch: int, crew: Crew, positions: Sequence[int]) -> Future[_Prepared]:
        """Cut a batch into a piece for each worker, so that the first one of an epoch is ready soon."""
        size = -(-len(positions) // crew.size)
        pieces = [
            crew.submit(partial(self._examples, positions[start : start + size], epoch, crew.stopping.is_set))
            for start in range(0, len(positions), size)
        ]
        # Calls begin in order: when this one does, its pieces are done or at work in other threads.
        return crew.submit(lambda: self._assemble([example for piece in pieces for example in piece.result()]))

    def _examples(self, positions: Sequence[int], epoch: int, stopped: Callable[[], bool]) -> list[_Example | _Bad]:
        return [self._example(position, epoch) for position in positions if not stopped()]

    def _example(self, position: int, epoch: int) -> _Example | _Bad:
        key, index, reader = self.dataset.key(position), self.dataset.indices[position], self.dataset.reader
        try:
            inputs = self._made.example(position, lambda: reader.read(index).content, self._randomness(epoch, key))
        except BadContent as error:
            return _Bad(key, str(error), reader.labels(index))
        except DataError as error:
            reason = str(error).removeprefix(f"channel {self.dataset.reader.channel!r}: {key} ")
            return _Bad(key, reason, reader.labels(index))
        return _Example(position, inputs, reader.labels(index))

    def _randomness(self, epoch: int, key: str) -> random.Random | None:
        if not self._options.augment:
            return None
        return random.Random(record_seed(self._options.seed, epoch, key))  # noqa: S311 - nothing secret

    def _assemble(self, examples: Sequence[_Example | _Bad]) -> _Prepared:
        good = [example for example in examples if isinstance(example, _Example)]
        inputs = self.dataset.transform.collate([example.inputs for example in good])
        targets = self.dataset.label_map.targets([example.labels for example in good])
        if self._pins:
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
            targets = targets.pin_memory()
        batch = Batch(inputs, targets, tuple(example.position for example in good))
        return batch, [example for example in examples if isinstance(example, _Bad)]
