"""Batch-invariant feature extraction: fixed batch shapes make features independent of the other records in a batch.

The last bits of a matrix product depend on the shapes of the matrices, but not on the values of other rows. So the
frozen prefix always runs on batches of one size, padded with copies, and texts are padded to a length that depends only
on the text. It makes no difference whether a feature was cached or is recomputed together with other records.

On a CPU, every core processes its own batch: cores that share a batch wait for each other after every operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.loading.batches import Batch, Batches
from finetune.models.backbone import SplitModel
from finetune.runtime.worker_pool import WorkerPool

_I = TypeVar("_I")
_T = TypeVar("_T")

LENGTH_STEP = 16
"""Texts are padded to a multiple of this number of tokens."""
_TEXTS_AT_ONCE, _TOKENS_AT_ONCE = 4096, {"cpu": 1 << 21, "cuda": 1 << 18}
"""Maximum number of texts, and of their padded tokens, read at a time; the larger, the fewer padding rows.

Uncached features wait on the device until their batch is due: on a GPU, 0.8 GB of hidden states of size 768.
"""


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """Configuration of the frozen prefix's forward pass.

    Attributes:
        cut: the split model.
        chunk: rows in every batch of the frozen prefix.
        longest: maximum number of tokens of a text; 1 for images.
        device: device of the model.
        context: autocast or a null context, entered around each forward pass.
        at_once: number of batches processed concurrently; if several, each in its own host thread.
    """

    split: SplitModel
    chunk: int
    longest: int
    device: torch.device
    context: Callable[[], AbstractContextManager[object]]
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Computed:
    """Features of records, one row for each of `positions`; the records at `bad` could not be decoded."""

    positions: NDArray[np.int64]
    features: dict[str, Tensor]
    bad: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One batch of the frozen prefix: row numbers, int64, and their inputs."""

    rows: Tensor
    inputs: dict[str, Tensor]


def compute(
    run: FeatureExtractor, batches: Batches, positions: Sequence[int], view: int
) -> Generator[Computed, None, None]:
    """Read records and yield their features in chunks, approximately in the requested order.

    Args:
        run: configuration of the frozen prefix's forward pass.
        batches: reads and transforms records, ahead of the computation.
        positions: dataset positions of the records.
        view: number of the augmented view.
    """
    texts = max(run.chunk, min(_TEXTS_AT_ONCE, _TOKENS_AT_ONCE[run.device.type] // run.longest))
    size = run.chunk if run.longest == 1 else texts
    lists = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
    with closing(batches.prepare(lists, view)) as prepared:
        parts = (part for asked, batch in zip(lists, prepared, strict=True) for part in _parts(run, asked, batch))
        with closing(_each(run, parts, lambda part: _computed(run, part))) as computed:
            yield from computed


def rows_of(
    run: FeatureExtractor, inputs: dict[str, Tensor], count: int
) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
    """Yield the features of `count` rows in chunks: row numbers, int64, and one row of features for each."""
    with closing(_each(run, _chunks(run, inputs, count), lambda chunk: (chunk.rows, _front(run, chunk)))) as given:
        yield from given


def _each(run: FeatureExtractor, items: Iterable[_I], make: Callable[[_I], _T]) -> Generator[_T, None, None]:
    """Yield the result for each item in order; on a CPU, each item is processed on its own core."""
    if run.at_once == 1:
        yield from map(make, items)
        return
    waiting: deque[Future[_T]] = deque()
    with closing(WorkerPool(run.at_once, "front")) as crew:
        for item in items:
            waiting.append(crew.submit(partial(make, item)))
            if len(waiting) > crew.size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _parts(
    run: FeatureExtractor, asked: Sequence[int], batch: Batch
) -> Iterator[tuple[NDArray[np.int64], _Chunk | None]]:
    """Yield positions of records with their chunk, and positions of undecodable records with `None`."""
    found = np.asarray(batch.positions, np.int64)
    bad = np.setdiff1d(np.asarray(asked, np.int64), found)
    if len(bad):
        yield bad, None
    for chunk in _chunks(run, batch.inputs, len(found)):
        yield found[chunk.rows.numpy()], chunk


def _computed(run: FeatureExtractor, part: tuple[NDArray[np.int64], _Chunk | None]) -> Computed:
    positions, chunk = part
    none = np.empty(0, np.int64)
    return Computed(none, {}, positions) if chunk is None else Computed(positions, _front(run, chunk), none)


def _chunks(run: FeatureExtractor, inputs: dict[str, Tensor], count: int) -> Iterator[_Chunk]:
    if run.longest == 1:
        for start in range(0, count, run.chunk):
            rows = torch.arange(start, min(start + run.chunk, count))
            yield _Chunk(rows, {name: value[start : start + len(rows)] for name, value in inputs.items()})
        return
    lengths = inputs["attention_mask"].sum(dim=1)
    padded = (-(-lengths // LENGTH_STEP) * LENGTH_STEP).clamp(max=run.longest)
    # transformers omits the mask if no row of a batch has padding, and a GPU then uses different kernels. So texts
    # without padding never share a batch with padded texts.
    kinds = 2 * padded + (lengths == padded)
    for kind in sorted(set(kinds.tolist())):
        for rows in torch.split(torch.nonzero(kinds == kind).flatten(), run.chunk):
            yield _Chunk(rows, {name: _of_length(value[rows], kind // 2) for name, value in inputs.items()})


def _of_length(values: Tensor, length: int) -> Tensor:
    """Truncate, or pad with zeros, which the mask hides."""
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[:, :length]


def _front(run: FeatureExtractor, chunk: _Chunk) -> dict[str, Tensor]:
    filled = {name: _filled(value, run.chunk) for name, value in chunk.inputs.items()}
    filled = {name: value.to(run.device, non_blocking=True) for name, value in filled.items()}
    with run.context():
        features = run.split.prefix(filled)
    return {name: value[: len(chunk.rows)] for name, value in features.items()}


def _filled(values: Tensor, rows: int) -> Tensor:
    """Pad to `rows` with copies of the first row, keeping the memory format."""
    if len(values) == rows:
        return values
    index = torch.cat([torch.arange(len(values)), torch.zeros(rows - len(values), dtype=torch.int64)])
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
    return values[index]
