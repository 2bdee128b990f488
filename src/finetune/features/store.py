"""Feature store with fast gathering of batches: on the device, in host memory or in memory-mapped files."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.features.store_index import (
    BAD,
    NOT_CACHED,
    PrivateIndex,
    RowFormat,
    SharedIndex,
    SharedStoreMemory,
    StoreIndex,
    StoreLayout,
)
from finetune.runtime.mapped_file import map_temporary_file

__all__ = ["BAD", "NOT_CACHED", "FeatureStore", "StoreLimits", "copy_to_device"]

logger = logging.getLogger(__name__)

_LENGTH_RATIO = 4
"""Assumed ratio of the maximum length of texts to their mean length."""
_LENGTHS_KEY, _BEGINS_KEY, _ROWS_PREFIX, _CHANNELS_LAST_PREFIX = "lengths", "begins", "rows/", "turned/"


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Limits and locations of a feature store.

    Attributes:
        memory_bytes: limit for host memory.
        file_bytes: limit for files in `folder`, used if memory does not suffice.
        folder: folder of the memory-mapped files, which are unlinked at once, so that no file remains.
        device: device of the gathered features.
        device_bytes: limit for device memory, if the device is not the host.
    """

    memory_bytes: int
    file_bytes: int = 0
    folder: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_bytes: int = 0


class FeatureStore:
    """Features of numbered entries: one row each, or one row per token for texts of variable length.

    The processes of a host may share a store in host memory or on disk. An entry that one of them has cached is cached
    for all; a process reads it only after the processes have waited for each other, or if it has cached it itself.
    """

    def __init__(
        self,
        entries: int,
        limits: StoreLimits,
        padding: Mapping[str, float],
        max_length: int = 1,
        *,
        shared: SharedStoreMemory | None = None,
        expected_entries: int | None = None,
    ) -> None:
        """Initialize without allocating memory.

        Args:
            entries: number of entries.
            limits: limits and locations of the store.
            padding: padding value by feature name, for shorter entries; empty if each entry has one row.
            max_length: maximum number of rows per entry, if padded.
            shared: memory shared by the processes of the host, unless the features are stored on the device.
            expected_entries: number of entries to reserve space for; `None` for all.
        """
        self._index: StoreIndex = PrivateIndex(entries) if shared is None else SharedIndex(shared.index, entries)
        self._shared = shared
        self._limits = limits
        self._padding = dict(padding)
        self._max_length = max_length if padding else 1
        self._max_rows = (entries if expected_entries is None else expected_entries) * self._max_length
        self._rows: dict[str, Tensor] = {}
        self._layout: StoreLayout | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[entries]` number of rows of each entry, `NOT_CACHED` or `BAD`."""
        return self._index.lengths

    @property
    def begins(self) -> NDArray[np.int64]:
        """`[entries]` first row of each cached entry."""
        return self._index.begins

    @property
    def is_shared(self) -> bool:
        """Whether what this process caches is cached for the other processes of the host as well."""
        self._find_layout()
        return self._shared is not None

    def is_cached(self, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which entries are cached."""
        return self.lengths[entries] >= 0

    @property
    def used_bytes(self) -> int:
        """Bytes used by the cached features."""
        formats = () if self._find_layout() is None else self._formats.values()
        return sum(row_format.row_bytes for row_format in formats) * self._index.used

    def put(self, entries: NDArray[np.int64], features: Mapping[str, Tensor]) -> int:
        """Cache as many of the first rows of features as fit; return the number of cached entries."""
        lengths = self._lengths_of(features)
        layout = self._lay_out(lambda: {name: self._format_of(value) for name, value in features.items()})
        begin, count = self._index.claim(lengths, layout.capacity)
        if not count:
            return 0
        ends = begin + np.cumsum(lengths[:count])
        for name, rows in self._rows.items():
            rows[begin : int(ends[-1])].copy_(self._as_rows(name, features, count))
        self.begins[entries[:count]] = ends - lengths[:count]
        self.lengths[entries[:count]] = lengths[:count]
        return count

    def state_dict(self) -> dict[str, Tensor]:
        """Return all cached features, on the host, for `load_state_dict`."""
        formats = {} if self._find_layout() is None else self._formats
        rows = {
            f"{_CHANNELS_LAST_PREFIX if row_format.channels_last else _ROWS_PREFIX}{name}": self._rows[name][
                : self._index.used
            ].cpu()
            for name, row_format in formats.items()
        }
        return {
            **rows,
            _LENGTHS_KEY: torch.from_numpy(self.lengths.copy()),
            _BEGINS_KEY: torch.from_numpy(self.begins.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> int:
        """Load the state of another store of the same entries, as far as it fits; return the number of cached entries.

        Raises:
            ValueError: the state does not match these entries.
        """
        saved = {
            name.removeprefix(_ROWS_PREFIX).removeprefix(_CHANNELS_LAST_PREFIX): value
            for name, value in state.items()
            if "/" in name
        }
        lengths, begins = (
            state[name].numpy() if name in state else np.empty(0) for name in (_LENGTHS_KEY, _BEGINS_KEY)
        )
        matches = lengths.shape == begins.shape == self.lengths.shape and (
            not self._padding or saved.keys() == self._padding.keys()
        )
        if self._find_layout() is not None or not saved or not matches:
            raise ValueError("the saved features are of other records")
        layout = self._lay_out(
            lambda: {
                name: RowFormat(_type_name(value), tuple(value.shape[1:]), f"{_CHANNELS_LAST_PREFIX}{name}" in state)
                for name, value in saved.items()
            }
        )
        count = min(layout.capacity, *(len(value) for value in saved.values()))
        self._index.claim(np.asarray([count], np.int64), layout.capacity)
        # Bad records are not restored: they are read again, so that this job notes them too.
        restorable = (lengths >= 0) & (begins >= 0) & (begins + lengths <= count)
        for name, rows in self._rows.items():
            rows[:count].copy_(saved[name][:count])
        self.begins[:] = np.where(restorable, begins, 0)
        self.lengths[:] = np.where(restorable, lengths, NOT_CACHED)
        return int(restorable.sum())

    def gather(self, entries: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the features of cached entries, one row each, on the target device."""
        self._find_layout()
        begins = torch.from_numpy(self.begins[entries])
        if not self._padding:
            return {name: self._as_features(name, self._select(rows, begins)) for name, rows in self._rows.items()}
        lengths = torch.from_numpy(self.lengths[entries])
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0)
        inside = copy_to_device(steps < lengths.unsqueeze(1), self._limits.device)
        index = (begins.unsqueeze(1) + steps).clamp(max=max(0, self._index.used - 1))
        gathered = {}
        for name, rows in self._rows.items():
            selected = self._select(rows, index.flatten()).view(*index.shape, *rows.shape[1:])
            outside = ~inside.view(*inside.shape, *(1,) * (selected.dim() - 2))
            gathered[name] = selected.masked_fill_(outside, self._padding[name])
        return gathered

    def merge(self, entries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Merge features of entries, each in a batch of one, into the format of `gather`; they need not be cached."""
        limits = StoreLimits(sys.maxsize, device=self._limits.device, device_bytes=sys.maxsize)
        merged = FeatureStore(len(entries), limits, self._padding, self._max_length)
        for index, features in enumerate(entries):
            merged.put(np.asarray([index]), features)
        return merged.gather(np.arange(len(entries)))

    def _lengths_of(self, features: Mapping[str, Tensor]) -> NDArray[np.int64]:
        first = next(iter(features.values()))
        if not self._padding:
            return np.ones(len(first), np.int64)
        counted: NDArray[np.int64] = features["attention_mask"].sum(dim=1).cpu().numpy().astype(np.int64)
        return counted

    def _as_rows(self, name: str, features: Mapping[str, Tensor], count: int) -> Tensor:
        values = features[name][:count]
        if self._padding:
            return values[features["attention_mask"][:count].bool()]
        return values.permute(0, 2, 3, 1) if self._formats[name].channels_last else values

    def _select(self, rows: Tensor, index: Tensor) -> Tensor:
        if rows.device.type == "cpu" and self._limits.device.type == "cuda":
            selected = torch.empty((len(index), *rows.shape[1:]), dtype=rows.dtype, pin_memory=True)
            return copy_to_device(torch.index_select(rows, 0, index, out=selected), self._limits.device)
        return rows.index_select(0, copy_to_device(index, rows.device))

    def _as_features(self, name: str, rows: Tensor) -> Tensor:
        return rows.permute(0, 3, 1, 2) if self._formats[name].channels_last else rows

    @property
    def _formats(self) -> Mapping[str, RowFormat]:
        return {} if self._layout is None else self._layout.formats

    def _format_of(self, value: Tensor) -> RowFormat:
        """Return the format of the rows of a feature, given the features of some entries."""
        if self._padding:
            return RowFormat(_type_name(value), tuple(value.shape[2:]), channels_last=False)
        # Results of a convolution may depend on the memory format of its input, so the format is preserved.
        channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        shape = value.permute(0, 2, 3, 1).shape[1:] if channels_last else value.shape[1:]
        return RowFormat(_type_name(value), tuple(shape), channels_last)

    def _find_layout(self) -> StoreLayout | None:
        """Return the layout, possibly of another process of the host; `None` if nothing is cached."""
        if self._layout is None and self._index.layout is not None:
            self._adopt(self._index.layout)
        return self._layout

    def _lay_out(self, formats: Callable[[], Mapping[str, RowFormat]]) -> StoreLayout:
        if self._layout is None:
            self._adopt(self._index.lay_out(lambda: self._propose(formats())))
        assert self._layout is not None  # noqa: S101  # set by `_adopt`
        return self._layout

    def _propose(self, formats: Mapping[str, RowFormat]) -> StoreLayout:
        """Reserve space for all rows, or as many as fit: on the device, else in memory, else in a file."""
        limits, shared = self._limits, self._shared
        row_bytes = sum(row_format.row_bytes for row_format in formats.values())
        # Few texts have the maximum length.
        requested_bytes = self._max_rows * row_bytes // (_LENGTH_RATIO if self._padding else 1)
        place: Literal["device", "memory", "disk"] = "memory"
        capacity = limits.memory_bytes // row_bytes
        if limits.device.type != "cpu" and requested_bytes <= limits.device_bytes:
            place, capacity = "device", limits.device_bytes // row_bytes
        elif requested_bytes > limits.memory_bytes and limits.file_bytes > limits.memory_bytes:
            place, capacity = "disk", limits.file_bytes // row_bytes
        if shared is not None and place != "device":
            capacity = shared.capacity(row_bytes, len(formats), on_disk=place == "disk")
        layout = StoreLayout(place, min(self._max_rows, capacity), formats)
        if place == "disk" and not self._reserve_disk(layout):
            capacity = limits.memory_bytes // row_bytes
            if shared is not None:
                capacity = shared.capacity(row_bytes, len(formats))
            layout = StoreLayout("memory", min(self._max_rows, capacity), formats)
        if 0 < layout.capacity < self._max_rows and not self._padding:
            logger.info("Features of %d of %d records fit into the cache.", layout.capacity, self._max_rows)
        return layout

    def _reserve_disk(self, layout: StoreLayout) -> bool:
        """Reserve the disk space of all rows; return whether there is enough."""
        try:
            if self._shared is not None:
                self._shared.disk.reserve(0, self._shared.disk_bytes(layout))
            elif self._limits.folder is not None:
                self._rows = self._map_files(layout, self._limits.folder)
            else:
                return False
        except OSError as error:
            logger.warning("Cannot cache features in %s: %s", self._limits.folder, error)
            return False
        return True

    def _adopt(self, layout: StoreLayout) -> None:
        """Use the rows of a layout."""
        if layout.place == "device" and self._shared is not None:
            # Every process has its own device; keep what is known about bad records.
            shared_index, self._shared = self._index, None
            self._index = PrivateIndex(len(shared_index.lengths))
            self._index.lengths[:] = np.where(shared_index.lengths == BAD, BAD, NOT_CACHED)
        self._layout = layout
        if self._shared is not None:
            self._rows = self._shared.rows(layout)
        elif not self._rows:
            device = self._limits.device if layout.place == "device" else torch.device("cpu")
            self._rows = {
                name: torch.empty((layout.capacity, *value.shape), dtype=value.torch_dtype, device=device)
                for name, value in layout.formats.items()
            }

    @staticmethod
    def _map_files(layout: StoreLayout, folder: Path) -> dict[str, Tensor]:
        """Map unnamed files.

        Raises:
            OSError: the disk is full.
        """
        rows = {}
        for name, value in layout.formats.items():
            shape = (layout.capacity, *value.shape)
            rows[name] = map_temporary_file(folder, math.prod(shape), value.torch_dtype).view(shape)
        return rows


def _type_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; from the host to a GPU through pinned memory, so that the copy is asynchronous."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
