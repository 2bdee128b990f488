"""How are features computed so that they are the same bits in whatever company a record comes?

The last bits of a product of matrices depend on the shapes of the matrices, but not on what the other rows hold. So
the front always runs on batches of one size, filled up with copies, and texts are padded to a length that follows from
the text alone. Whether a feature was kept, or is computed again with other records, then makes no difference.

On a CPU every core has a batch of its own: cores that share one wait for each other after every operation.
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
from finetune.models.backbone import Cut
from finetune.runtime.worker_pool import Crew

_I = TypeVar("_I")
_T = TypeVar("_T")

LENGTH_STEP = 16
"""Texts are padded to a multiple of so many tokens."""
_TEXTS_AT_ONCE, _TOKENS_AT_ONCE = 4096, {"cpu": 1 << 21, "cuda": 1 << 18}
"""Most texts, and places for their tokens, that are read together; the more, the fewer rows are copies.

Features that are not kept wait on the device until their batch is due: on a GPU 0.8 GB of hidden states 768 wide.
"""


@dataclass(frozen=True, slots=True)
class FrontRun:
    """How the front runs.

    Attributes:
        cut: the network in two halves.
        chunk: rows of every batch that goes through the front.
        longest: most tokens of a text, 1 for pictures.
        device: of the network.
        context: autocast or nothing, entered around each pass.
        at_once: batches that go through the front at the same time; of several, each in one thread of the host.
    """

    cut: Cut
    chunk: int
    longest: int
    device: torch.device
    context: Callable[[], AbstractContextManager[object]]
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Computed:
    """Features of some records, a row for each of `positions`; `bad` ones could not be decoded."""

    positions: NDArray[np.int64]
    features: dict[str, Tensor]
    bad: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What goes through the front together: the numbers of some rows, int64, and their inputs."""

    rows: Tensor
    inputs: dict[str, Tensor]


def compute(run: FrontRun, batches: Batches, positions: Sequence[int], view: int) -> Generator[Computed, None, None]:
    """Read records, and give their features chunk by chunk; near the order in which they are asked for.

    Args:
        run: how the front runs.
        batches: reads and transforms, ahead of what is computed.
        positions: of the records in the data set.
        view: number of the augmentation.
    """
    texts = max(run.chunk, min(_TEXTS_AT_ONCE, _TOKENS_AT_ONCE[run.device.type] // run.longest))
    size = run.chunk if run.longest == 1 else texts
    lists = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
    with closing(batches.prepare(lists, view)) as prepared:
        parts = (part for asked, batch in zip(lists, prepared, strict=True) for part in _parts(run, asked, batch))
        with closing(_each(run, parts, lambda part: _computed(run, part))) as computed:
            yield from computed


def rows_of(
    run: FrontRun, inputs: dict[str, Tensor], count: int
) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
    """Give features of so many rows chunk by chunk: the numbers of some rows, int64, and a row of features for each."""
    with closing(_each(run, _chunks(run, inputs, count), lambda chunk: (chunk.rows, _front(run, chunk)))) as given:
        yield from given


def _each(run: FrontRun, items: Iterable[_I], make: Callable[[_I], _T]) -> Generator[_T, None, None]:
    """Give what becomes of each item in order; on a CPU each on a core of its own."""
    if run.at_once == 1:
        yield from map(make, items)
        return
    waiting: deque[Future[_T]] = deque()
    with closing(Crew(run.at_once, "front")) as crew:
        for item in items:
            waiting.append(crew.submit(partial(make, item)))
            if len(waiting) > crew.size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _parts(run: FrontRun, asked: Sequence[int], batch: Batch) -> Iterator[tuple[NDArray[np.int64], _Chunk | None]]:
    """Positions of records with what goes through the front, and of those that cannot be decoded with nothing."""
    found = np.asarray(batch.positions, np.int64)
    bad = np.setdiff1d(np.asarray(asked, np.int64), found)
    if len(bad):
        yield bad, None
    for chunk in _chunks(run, batch.inputs, len(found)):
        yield found[chunk.rows.numpy()], chunk


def _computed(run: FrontRun, part: tuple[NDArray[np.int64], _Chunk | None]) -> Computed:
    positions, chunk = part
    none = np.empty(0, np.int64)
    return Computed(none, {}, positions) if chunk is None else Computed(positions, _front(run, chunk), none)


def _chunks(run: FrontRun, inputs: dict[str, Tensor], count: int) -> Iterator[_Chunk]:
    if run.longest == 1:
        for start in range(0, count, run.chunk):
            rows = torch.arange(start, min(start + run.chunk, count))
            yield _Chunk(rows, {name: value[start : start + len(rows)] for name, value in inputs.items()})
        return
    lengths = inputs["attention_mask"].sum(dim=1)
    padded = (-(-lengths // LENGTH_STEP) * LENGTH_STEP).clamp(max=run.longest)
    # transformers leaves out the mask where no row of a batch has padding, and a GPU then computes by other kernels. So
    # texts that fill their length never meet those that do not.
    kinds = 2 * padded + (lengths == padded)
    for kind in sorted(set(kinds.tolist())):
        for rows in torch.split(torch.nonzero(kinds == kind).flatten(), run.chunk):
            yield _Chunk(rows, {name: _of_length(value[rows], kind // 2) for name, value in inputs.items()})


def _of_length(values: Tensor, length: int) -> Tensor:
    """Cut or fill up with zeros, which the mask hides."""
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[:, :length]


def _front(run: FrontRun, chunk: _Chunk) -> dict[str, Tensor]:
    filled = {name: _filled(value, run.chunk) for name, value in chunk.inputs.items()}
    filled = {name: value.to(run.device, non_blocking=True) for name, value in filled.items()}
    with run.context():
        features = run.cut.front(filled)
    return {name: value[: len(chunk.rows)] for name, value in features.items()}


def _filled(values: Tensor, rows: int) -> Tensor:
    """The same values with copies of the first row behind them, lying in memory as before."""
    if len(values) == rows:
        return values
    index = torch.cat([torch.arange(len(values)), torch.zeros(rows - len(values), dtype=torch.int64)])
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
    return values[index]
