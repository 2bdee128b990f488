"""Index of a feature store, in this process or shared by the processes of a host: which rows hold which entries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.runtime.shared_bytes import SharedBytes

NOT_CACHED, BAD = -1, -2
"""Lengths of entries that are not cached, and of records that cannot be decoded."""

_LAYOUT_BYTES = 4096
_COUNTERS = 2
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Format of the rows of a feature.

    Attributes:
        dtype: type, such as `float32`.
        shape: shape of a row, with channels last if `channels_last`.
        channels_last: whether the features of entries have this memory format.
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type."""
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)  # noqa: S101  # for mypy
        return dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.torch_dtype.itemsize


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Where the rows of a store are.

    Attributes:
        place: the device, host memory or a file.
        capacity: number of rows.
        formats: format of the rows by name of the feature.
    """

    place: Literal["device", "memory", "disk"]
    capacity: int
    formats: Mapping[str, RowFormat] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the layout as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StoreLayout:
        """Return the layout that `to_json` returned as text."""
        fields = json.loads(text)
        formats = {
            name: RowFormat(value["dtype"], tuple(value["shape"]), value["channels_last"])
            for name, value in fields["formats"].items()
        }
        return cls(fields["place"], fields["capacity"], formats)


class StoreIndex(Protocol):
    """Index of a feature store."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[entries]` number of rows of each entry, `NOT_CACHED` or `BAD`; set after the rows are written."""
        ...

    @property
    def begins(self) -> NDArray[np.int64]:
        """`[entries]` first row of each cached entry."""
        ...

    @property
    def layout(self) -> StoreLayout | None:
        """The layout of the store; `None` before it has one."""
        ...

    @property
    def used(self) -> int:
        """Number of claimed rows."""
        ...

    def lay_out(self, propose: Callable[[], StoreLayout]) -> StoreLayout:
        """Return the layout of the store, which is the first one proposed."""
        ...

    def claim(self, lengths: NDArray[np.int64], capacity: int) -> tuple[int, int]:
        """Claim rows for as many of the first entries as fit.

        Args:
            lengths: number of rows of each entry.
            capacity: number of rows of the store.

        Returns:
            The first row, and the number of entries.
        """
        ...


class PrivateIndex:
    """The index of a store that this process alone uses."""

    def __init__(self, entries: int) -> None:
        """Initialize without cached entries."""
        self.lengths: NDArray[np.int64] = np.full(entries, NOT_CACHED, np.int64)
        self.begins: NDArray[np.int64] = np.zeros(entries, np.int64)
        self.layout: StoreLayout | None = None
        self.used = 0

    def lay_out(self, propose: Callable[[], StoreLayout]) -> StoreLayout:
        """Return the layout of the store."""
        self.layout = self.layout or propose()
        return self.layout

    def claim(self, lengths: NDArray[np.int64], capacity: int) -> tuple[int, int]:
        """Claim rows for as many of the first entries as fit."""
        begin = self.used
        count, self.used = _fitting(begin, lengths, capacity)
        return begin, count


class SharedIndex:
    """The index of a store that all processes of a host use."""

    def __init__(self, memory: SharedBytes, entries: int) -> None:
        """Initialize from shared bytes; entries are cached that another process has cached.

        Args:
            memory: shared bytes, as many as `required_bytes` returns; zero before the first use.
            entries: number of entries.
        """
        self._memory = memory
        counters = memory.array(np.int64, _COUNTERS, _LAYOUT_BYTES)
        self._counters = counters
        start = _LAYOUT_BYTES + counters.nbytes
        self.begins = memory.array(np.int64, entries, start)
        self.lengths = memory.array(np.int64, entries, start + self.begins.nbytes)
        with memory.locked():
            if not counters[0]:
                self.lengths[:] = NOT_CACHED
                counters[0] = 1

    @staticmethod
    def required_bytes(entries: int) -> int:
        """Return the number of shared bytes of an index."""
        return _LAYOUT_BYTES + 8 * (_COUNTERS + 2 * entries)

    @property
    def used(self) -> int:
        """Number of claimed rows."""
        return int(self._counters[1])

    @property
    def layout(self) -> StoreLayout | None:
        """The layout of the store, once some process has proposed one."""
        text = self._memory.array(np.uint8, _LAYOUT_BYTES).tobytes().rstrip(b"\0")
        return StoreLayout.from_json(text.decode()) if text.endswith(b"\n") else None

    def lay_out(self, propose: Callable[[], StoreLayout]) -> StoreLayout:
        """Return the layout of the store, which is the first one that a process of the host proposed."""
        with self._memory.locked():
            layout = self.layout
            if layout is None:
                layout = propose()
                text = np.frombuffer(layout.to_json().encode() + b"\n", np.uint8)
                self._memory.array(np.uint8, _LAYOUT_BYTES)[: len(text)] = text
        return layout

    def claim(self, lengths: NDArray[np.int64], capacity: int) -> tuple[int, int]:
        """Claim rows for as many of the first entries as fit."""
        with self._memory.locked():
            begin = self.used
            count, self._counters[1] = _fitting(begin, lengths, capacity)
        return begin, count


@dataclass(frozen=True, slots=True)
class SharedStoreMemory:
    """Memory of a store that the processes of a host share.

    Attributes:
        index: bytes of the index.
        memory: bytes for rows, in memory.
        disk: bytes for rows, in a file; used if the rows do not fit into `memory`.
    """

    index: SharedBytes
    memory: SharedBytes
    disk: SharedBytes

    @staticmethod
    def disk_bytes(layout: StoreLayout) -> int:
        """Return the number of bytes that the rows of a layout occupy."""
        return sum(_aligned(layout.capacity * row_format.row_bytes) for row_format in layout.formats.values())

    def rows(self, layout: StoreLayout) -> dict[str, Tensor]:
        """Return all rows, `[capacity, ...]` by name of the feature."""
        source = self.disk if layout.place == "disk" else self.memory
        rows, start = {}, 0
        for name, row_format in layout.formats.items():
            rows[name] = source.tensor(row_format.torch_dtype, (layout.capacity, *row_format.shape), start)
            start += _aligned(layout.capacity * row_format.row_bytes)
        return rows

    def capacity(self, row_bytes: int, features: int, *, on_disk: bool = False) -> int:
        """Return the number of rows that fit, given the bytes of a row and the number of features."""
        size = (self.disk if on_disk else self.memory).size
        return max(0, size - features * _ALIGNMENT) // row_bytes


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _fitting(begin: int, lengths: NDArray[np.int64], capacity: int) -> tuple[int, int]:
    """Return the number of entries that fit behind row `begin`, and the row behind the last of them."""
    ends = begin + np.cumsum(lengths)
    count = int(np.searchsorted(ends, capacity, side="right"))
    return count, int(ends[count - 1]) if count else begin
