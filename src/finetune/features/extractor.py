"""Batch-invariant feature extraction: fixed batch shapes make features independent of the other records in a batch.

The last bits of a matrix product depend on the shapes of the matrices, but not on the values of other rows. So the
frozen prefix always runs on batches of one size, padded with copies, and texts are padded to a length that depends only
on the text. It makes no difference whether a feature was cached or is recomputed together with other records.

On a CPU, every core processes its own batch: cores that share a batch wait for each other after every operation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.loading.batches import Batch, Batches
from finetune.data.loading.prefetch import iterate_ahead
from finetune.models.backbone import SplitModel
from finetune.runtime.computations import computing
from finetune.runtime.live_progress import Progress, ProgressWriter
from finetune.runtime.worker_pool import WorkerPool

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

LENGTH_STEP = 16
"""Texts are padded to a multiple of this number of tokens."""
_MAX_TEXTS, _MAX_TOKENS = 4096, {"cpu": 1 << 21, "cuda": 1 << 18}
"""Maximum number of texts, and of their padded tokens, read at a time; the larger, the fewer padding rows.

Uncached features wait on the device until their batch is due: on a GPU, 0.8 GB of hidden states of size 768.
"""


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    """Features of records, one row for each of `positions`; the records at `bad` could not be decoded."""

    positions: NDArray[np.int64]
    features: dict[str, Tensor]
    bad: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _InputChunk:
    """One batch of the frozen prefix: row numbers, int64, and their inputs."""

    rows: Tensor
    inputs: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """Computes the features of records: runs the frozen prefix of a model.

    Attributes:
        split: the split model.
        chunk_size: rows in every batch of the frozen prefix.
        max_length: maximum number of tokens of a text; 1 for images.
        device: device of the model.
        context: autocast or a null context, entered around each forward pass.
        concurrency: number of batches processed concurrently; if several, each in its own host thread.
    """

    split: SplitModel
    chunk_size: int
    max_length: int
    device: torch.device
    context: Callable[[], AbstractContextManager[object]]
    concurrency: int = 1

    def list_size(self, count: int, processes: int = 1) -> int:
        """Return the number of records that `compute` reads at a time, a multiple of `chunk_size`.

        Args:
            count: number of records to compute, in all processes together.
            processes: number of processes that exchange their features.
        """
        if self.max_length == 1:
            return self.chunk_size
        texts = -(-min(_MAX_TEXTS, _MAX_TOKENS[self.device.type] // self.max_length, count) // processes)
        return max(1, -(-texts // self.chunk_size)) * self.chunk_size

    def compute(
        self, batches: Batches, positions: Sequence[int], view: int, list_size: int | None = None
    ) -> Generator[FeatureChunk, None, None]:
        """Read records and yield their features in chunks, approximately in the requested order.

        Args:
            batches: reads and transforms records, ahead of the computation.
            positions: dataset positions of the records.
            view: number of the augmented view.
            list_size: number of records read at a time, whose chunks are yielded before those of later records.
        """
        size = list_size or self.list_size(len(positions))
        lists = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
        with closing(batches.prepare(lists, view)) as prepared:
            chunks = (
                chunk
                for requested, batch in zip(lists, prepared, strict=True)
                for chunk in self._split_batch(requested, batch)
            )
            with closing(self._map_in_order(chunks, lambda chunk: self._compute_chunk(*chunk))) as results:
                yield from _report_progress(results, len(positions))

    def compute_rows(
        self, inputs: dict[str, Tensor], count: int
    ) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
        """Yield the features of `count` rows in chunks: row numbers, int64, and one row of features for each."""
        chunks = self._chunks(inputs, count)
        with closing(self._map_in_order(chunks, lambda chunk: (chunk.rows, self._run_prefix(chunk)))) as results:
            yield from results

    def _map_in_order(self, items: Iterable[_Item], fn: Callable[[_Item], _Result]) -> Generator[_Result, None, None]:
        """Yield the result for each item in order; on a CPU, each item is processed on its own core."""
        if self.concurrency == 1:
            for item in items:
                with computing("a batch of features"):
                    result = fn(item)
                yield result
            return
        with closing(WorkerPool(self.concurrency, "frozen-prefix")) as workers:
            futures = (workers.submit(partial(fn, item)) for item in items)
            for future in iterate_ahead(futures, lambda: workers.size):
                with computing("a batch of features"):
                    result = future.result()
                yield result

    def _split_batch(
        self, requested: Sequence[int], batch: Batch
    ) -> Iterator[tuple[NDArray[np.int64], _InputChunk | None]]:
        """Yield positions of records with their chunk, and positions of undecodable records with `None`."""
        decoded = np.asarray(batch.positions, np.int64)
        bad = np.setdiff1d(np.asarray(requested, np.int64), decoded)
        if len(bad):
            yield bad, None
        for chunk in self._chunks(batch.inputs, len(decoded)):
            yield decoded[chunk.rows.numpy()], chunk

    def _compute_chunk(self, positions: NDArray[np.int64], chunk: _InputChunk | None) -> FeatureChunk:
        empty = np.empty(0, np.int64)
        if chunk is None:
            return FeatureChunk(empty, {}, positions)
        return FeatureChunk(positions, self._run_prefix(chunk), empty)

    def _chunks(self, inputs: dict[str, Tensor], count: int) -> Iterator[_InputChunk]:
        if self.max_length == 1:
            for start in range(0, count, self.chunk_size):
                rows = torch.arange(start, min(start + self.chunk_size, count))
                yield _InputChunk(rows, {name: value[start : start + len(rows)] for name, value in inputs.items()})
            return
        lengths = inputs["attention_mask"].sum(dim=1)
        padded = (-(-lengths // LENGTH_STEP) * LENGTH_STEP).clamp(max=self.max_length)
        # transformers omits the mask if no row of a batch has padding, and a GPU then uses different kernels. So texts
        # without padding never share a batch with padded texts.
        groups = 2 * padded + (lengths == padded)
        for group in sorted(set(groups.tolist())):
            for rows in torch.split(torch.nonzero(groups == group).flatten(), self.chunk_size):
                yield _InputChunk(
                    rows, {name: _pad_to_length(value[rows], group // 2) for name, value in inputs.items()}
                )

    def _run_prefix(self, chunk: _InputChunk) -> dict[str, Tensor]:
        padded_inputs = {name: _pad_rows(value, self.chunk_size) for name, value in chunk.inputs.items()}
        padded_inputs = {name: value.to(self.device, non_blocking=True) for name, value in padded_inputs.items()}
        with self.context():
            features = self.split.prefix(padded_inputs)
        return {name: value[: len(chunk.rows)] for name, value in features.items()}


def _report_progress(chunks: Iterable[FeatureChunk], records: int) -> Iterator[FeatureChunk]:
    """Yield the chunks, and report the number of records that are done."""
    writer, done, started = ProgressWriter.from_environment(), 0, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk.positions) + len(chunk.bad)
        if writer.due():
            speed = done / max(time.monotonic() - started, 1e-9)
            writer.write(Progress("features of the frozen layers", done, records, records_per_second=speed))


def _pad_to_length(values: Tensor, length: int) -> Tensor:
    """Truncate, or pad with zeros, which the mask hides."""
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[:, :length]


def _pad_rows(values: Tensor, rows: int) -> Tensor:
    """Pad to `rows` with copies of the first row, keeping the memory format."""
    if len(values) == rows:
        return values
    index = torch.cat([torch.arange(len(values)), torch.zeros(rows - len(values), dtype=torch.int64)])
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
    return values[index]
