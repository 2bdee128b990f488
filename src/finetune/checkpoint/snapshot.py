"""How does training hand over its state while it waits only for a copy in memory?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.checkpoint.state import FlatState, copied_stride, flatten_state


class HasState(Protocol):
    """Anything whose state is a nested mapping of tensors and plain values, such as a module or an optimizer."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state; what it refers to may be live."""
        ...


class _Buffers:
    """CPU memory for one snapshot, kept from one to the next."""

    def __init__(self) -> None:
        self.in_use = False
        self._tensors: dict[tuple[str, str], Tensor] = {}

    def fill(self, states: Mapping[str, FlatState]) -> dict[str, FlatState]:
        kept = self._tensors
        self._tensors = {}
        devices: set[torch.device] = set()
        copies: dict[str, FlatState] = {}
        for part, state in states.items():
            tensors: dict[str, Tensor] = {}
            for name, tensor in state.tensors.items():
                buffer = _fitting(kept.get((part, name)), tensor)
                _copy(buffer, tensor)
                tensors[name] = self._tensors[part, name] = buffer
                if tensor.is_cuda:
                    devices.add(tensor.device)
            copies[part] = FlatState(tensors, state.values)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies


@dataclass(slots=True)
class Snapshot:
    """Named states at one moment, in memory that training does not touch.

    Attributes:
        parts: name -> state, its tensors on the CPU.
    """

    parts: Mapping[str, FlatState]
    _buffers: _Buffers = field(repr=False)
    _released: bool = False

    def release(self) -> None:
        """Give the memory back for a later snapshot; this one must not be read any more. Harmless when repeated."""
        if not self._released:
            self._released = True
            self._buffers.in_use = False


class SnapshotBuffers:
    """Takes snapshots, each into memory of an earlier one that was released, so that steady saving allocates nothing.

    While a snapshot is being written, a further one needs a second set of buffers. Whoever takes one only when the
    writer is not busy never has more than one set. `take` is for one thread; `release` may come from another.
    """

    def __init__(self) -> None:
        self._sets: list[_Buffers] = []

    def take(self, parts: Mapping[str, HasState]) -> Snapshot:
        """Copy the state of every part to the CPU (from a GPU through pinned memory) and return when it is there.

        Raises:
            TypeError: a state holds something else than tensors and plain values.
        """
        states = {name: flatten_state(part.state_dict()) for name, part in parts.items()}
        buffers = next((candidate for candidate in self._sets if not candidate.in_use), None)
        if buffers is None:
            buffers = _Buffers()
            self._sets.append(buffers)
        copies = buffers.fill(states)
        buffers.in_use = True
        return Snapshot(copies, buffers)


def take_snapshot(parts: Mapping[str, HasState]) -> Snapshot:
    """Take a single snapshot in memory of its own; see `SnapshotBuffers.take`."""
    return SnapshotBuffers().take(parts)


def _copy(buffer: Tensor, tensor: Tensor) -> None:
    """Copy, from a GPU without waiting for the end.

    On the CPU torch would share the work of every tensor among threads. Memory is no faster for it, and where cores are
    contended each of hundreds of tensors waits for the slowest thread: 1 to 5 s for 1 GB where one thread takes 0.1 s.
    """
    if tensor.is_cuda or tensor.stride() != buffer.stride():
        buffer.copy_(tensor, non_blocking=tensor.is_cuda)
    else:
        np.copyto(_bytes(buffer), _bytes(tensor))


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The memory of a CPU tensor without gaps, in its own order."""
    flat = torch.as_strided(tensor, (tensor.numel(),), (1,), tensor.storage_offset())
    return cast("npt.NDArray[np.uint8]", flat.view(torch.uint8).numpy())


def _fitting(buffer: Tensor | None, tensor: Tensor) -> Tensor:
    """Return the buffer if a tensor fits into it in shape, type and memory layout, or else a new one."""
    if (
        buffer is not None
        and buffer.shape == tensor.shape
        and buffer.dtype == tensor.dtype
        and buffer.stride() == copied_stride(tensor)
        and buffer.is_pinned() == tensor.is_cuda
    ):
        return buffer
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
