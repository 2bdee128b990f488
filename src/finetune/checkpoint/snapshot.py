"""How does training hand over its state while it waits only for a copy in memory?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune.checkpoint.state import FlatState, flatten_state


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
                buffer.copy_(tensor, non_blocking=tensor.is_cuda)
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


def _fitting(buffer: Tensor | None, tensor: Tensor) -> Tensor:
    """Return the buffer if a tensor fits into it in shape, type and memory layout, or else a new one."""
    layout = torch.empty_like(tensor, device="meta")
    if (
        buffer is not None
        and buffer.shape == layout.shape
        and buffer.dtype == layout.dtype
        and buffer.stride() == layout.stride()
        and buffer.is_pinned() == tensor.is_cuda
    ):
        return buffer
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
