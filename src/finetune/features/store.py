"""Feature store with fast gathering of batches: on the device, in host memory or in memory-mapped files."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.runtime.mapped_file import map_temporary_file

logger = logging.getLogger(__name__)

NOT_CACHED, BAD = -1, -2
"""Lengths of records that are not cached, and of records that cannot be decoded."""
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

    Attributes:
        lengths: `[entries]` number of rows of each entry, `NOT_CACHED` or `BAD`.
        begins: `[entries]` first row of each cached entry.
    """

    def __init__(self, entries: int, limits: StoreLimits, padding: Mapping[str, float], max_length: int = 1) -> None:
        """Initialize without allocating memory.

        Args:
            entries: number of entries.
            limits: limits and locations of the store.
            padding: padding value by feature name, for shorter entries; empty if each entry has one row.
            max_length: maximum number of rows per entry, if padded.
        """
        self.lengths: NDArray[np.int64] = np.full(entries, NOT_CACHED, np.int64)
        self.begins: NDArray[np.int64] = np.zeros(entries, np.int64)
        self._limits = limits
        self._padding = dict(padding)
        self._max_length = max_length if padding else 1
        self._max_rows = entries * self._max_length
        self._rows: dict[str, Tensor] = {}
        self._channels_last: dict[str, bool] = {}
        self._capacity = 0
        self._next = 0

    def is_cached(self, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which entries are cached."""
        return self.lengths[entries] >= 0

    @property
    def used_bytes(self) -> int:
        """Bytes used by the cached features."""
        return sum(rows[0].numel() * rows.element_size() * self._next for rows in self._rows.values() if len(rows))

    def put(self, entries: NDArray[np.int64], features: Mapping[str, Tensor]) -> int:
        """Cache as many of the first rows of features as fit; return the number of cached entries."""
        lengths = self._lengths_of(features)
        if not self._rows:
            # Results of a convolution may depend on the memory format of its input, so the format is preserved.
            self._channels_last = {
                name: value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
                for name, value in features.items()
            }
            self._reserve({name: self._as_rows(name, features, len(value))[:1] for name, value in features.items()})
        ends = self._next + np.cumsum(lengths)
        count = int(np.searchsorted(ends, self._capacity, side="right"))
        if not count:
            return 0
        end = int(ends[count - 1])
        for name, rows in self._rows.items():
            rows[self._next : end].copy_(self._as_rows(name, features, count))
        self.begins[entries[:count]] = ends[:count] - lengths[:count]
        self.lengths[entries[:count]] = lengths[:count]
        self._next = end
        return count

    def state_dict(self) -> dict[str, Tensor]:
        """Return all cached features, on the host, for `load_state_dict`."""
        rows = {
            f"{_CHANNELS_LAST_PREFIX if self._channels_last[name] else _ROWS_PREFIX}{name}": value[: self._next].cpu()
            for name, value in self._rows.items()
        }
        return {**rows, _LENGTHS_KEY: torch.from_numpy(self.lengths), _BEGINS_KEY: torch.from_numpy(self.begins)}

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
        if self._rows or not saved or not matches:
            raise ValueError("the saved features are of other records")
        self._channels_last = {name: f"{_CHANNELS_LAST_PREFIX}{name}" in state for name in saved}
        self._reserve({name: value[:1] for name, value in saved.items()})
        count = min(self._capacity, *(len(value) for value in saved.values()))
        # Bad records are not restored: they are read again, so that this job notes them too.
        restorable = (lengths >= 0) & (begins >= 0) & (begins + lengths <= count)
        self.lengths[:] = np.where(restorable, lengths, NOT_CACHED)
        self.begins[:] = np.where(restorable, begins, 0)
        for name, rows in self._rows.items():
            rows[:count].copy_(saved[name][:count])
        self._next = count
        return int(restorable.sum())

    def gather(self, entries: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the features of cached entries, one row each, on the target device."""
        begins = torch.from_numpy(self.begins[entries])
        if not self._padding:
            return {name: self._as_features(name, self._select(rows, begins)) for name, rows in self._rows.items()}
        lengths = torch.from_numpy(self.lengths[entries])
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0)
        inside = copy_to_device(steps < lengths.unsqueeze(1), self._limits.device)
        index = (begins.unsqueeze(1) + steps).clamp(max=max(0, self._next - 1))
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
        return values.permute(0, 2, 3, 1) if self._channels_last[name] else values

    def _select(self, rows: Tensor, index: Tensor) -> Tensor:
        if rows.device.type == "cpu" and self._limits.device.type == "cuda":
            selected = torch.empty((len(index), *rows.shape[1:]), dtype=rows.dtype, pin_memory=True)
            return copy_to_device(torch.index_select(rows, 0, index, out=selected), self._limits.device)
        return rows.index_select(0, copy_to_device(index, rows.device))

    def _as_features(self, name: str, rows: Tensor) -> Tensor:
        return rows.permute(0, 3, 1, 2) if self._channels_last[name] else rows

    def _reserve(self, examples: Mapping[str, Tensor]) -> None:
        """Allocate all rows, or as many as fit: on the device, else in memory, else in a file."""
        bytes_per_row = sum(value[0].numel() * value.element_size() for value in examples.values())
        # Few texts have the maximum length.
        requested_bytes = self._max_rows * bytes_per_row // (_LENGTH_RATIO if self._padding else 1)
        limits = self._limits
        on_device = limits.device.type != "cpu" and requested_bytes <= limits.device_bytes
        if not on_device and requested_bytes > limits.memory_bytes and limits.file_bytes > limits.memory_bytes:
            self._capacity = min(self._max_rows, limits.file_bytes // bytes_per_row)
            self._rows = self._allocate_mapped(examples)
        if not self._rows:
            limit = limits.device_bytes if on_device else limits.memory_bytes
            device = limits.device if on_device else torch.device("cpu")
            self._capacity = min(self._max_rows, limit // bytes_per_row)
            self._rows = {
                name: torch.empty((self._capacity, *value.shape[1:]), dtype=value.dtype, device=device)
                for name, value in examples.items()
            }
        if self._capacity < self._max_rows and not self._padding:
            logger.info("Features of %d of %d records fit into the cache.", self._capacity, self._max_rows)

    def _allocate_mapped(self, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Allocate memory-mapped unnamed files; return no rows if the disk is full."""
        folder = self._limits.folder
        if folder is None:
            return {}
        rows_by_name = {}
        for name, value in examples.items():
            shape = (self._capacity, *value.shape[1:])
            try:
                rows = map_temporary_file(folder, math.prod(shape), value.dtype)
            except OSError as error:
                logger.warning("Cannot cache features in %s: %s", folder, error)
                return {}
            rows_by_name[name] = rows.view(shape)
        return rows_by_name


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; from the host to a GPU through pinned memory, so that the copy is asynchronous."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
