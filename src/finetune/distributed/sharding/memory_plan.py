"""Estimates the memory of a training step per device, and chooses whether to shard the model for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from finetune.distributed.fixed_order import aligned_blocks
from finetune.distributed.virtual_devices import shards_of_rank
from finetune.errors import UserError

MemoryMode = Literal["none", "checkpointing", "full", "full+checkpointing"]
"""Whether trainable parameters with their state are sharded (`full`), and whether activations are checkpointed."""
MEMORY_MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)
"""All modes, the fastest first."""

TRAINABLE_BYTES, FROZEN_BYTES = 16, 4
"""Bytes per parameter in float32: the weight and, if it is trainable, its gradient and two moments."""
USABLE_SHARE = 0.85
"""Share of a device's memory for the estimate; the rest is for the allocator, libraries and temporary tensors."""
_FLOAT_BYTES = 4
_UNIT_COPIES = 6
"""Copies of the largest unit during its backward pass: weights and gathered weights of this unit and the prefetched
one, gradients, and the gradients received from other processes."""
_GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Sizes that determine the memory of a training step.

    Attributes:
        trainable: Number of trainable parameters.
        frozen: Number of frozen parameters in memory.
        largest_unit: Parameters of the largest unit of a sharded model.
        activations: Bytes of activations of a pass.
        checkpointed_activations: The same with activation checkpointing.
    """

    trainable: int
    frozen: int
    largest_unit: int
    activations: int
    checkpointed_activations: int

    def bytes_per_device(self, mode: MemoryMode, virtual_devices: int, processes: int) -> int:
        """Estimate the peak memory of the process with the most shards.

        Args:
            mode: Sharding and checkpointing.
            virtual_devices: Number of shards per step.
            processes: Number of processes, each with its own device.
        """
        activations = self.checkpointed_activations if "checkpointing" in mode else self.activations
        trainable, frozen = TRAINABLE_BYTES * self.trainable, FROZEN_BYTES * self.frozen
        sums = _FLOAT_BYTES * self.trainable * _sums_before_last_pass(virtual_devices, processes)
        if not mode.startswith("full"):
            return trainable + frozen + sums + activations
        # A process holds the sums of its part of the parameters for each of the processes: as many as without sharding.
        unit = _UNIT_COPIES * _FLOAT_BYTES * self.largest_unit
        return -(-trainable // processes) + frozen + sums + activations + unit


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """The chosen mode, and the reason for the plan of the job.

    Attributes:
        mode: Sharding and checkpointing.
        reason: The reason.
    """

    mode: MemoryMode
    reason: str

    @property
    def is_sharded(self) -> bool:
        """Whether the trainable layers are sharded."""
        return self.mode.startswith("full")

    @property
    def checkpoints_activations(self) -> bool:
        """Whether activations are checkpointed."""
        return "checkpointing" in self.mode


NO_SHARDING = MemoryChoice("none", "")


def choose_memory_mode(
    memory: ModelMemory,
    device_bytes: Sequence[int],
    virtual_devices: int,
    allowed: Collection[MemoryMode] = MEMORY_MODES,
) -> MemoryChoice:
    """Choose the fastest mode that fits into the devices; sharding needs several.

    Args:
        memory: Sizes of the model.
        device_bytes: Memory of each process's device.
        virtual_devices: Number of shards per step; at least the number of devices.
        allowed: Modes that are possible.

    Raises:
        UserError: No mode fits.
    """
    processes, smallest = len(device_bytes), min(device_bytes)
    modes = [mode for mode in possible_modes(processes) if mode in allowed]
    needed = {mode: memory.bytes_per_device(mode, virtual_devices, processes) for mode in modes}
    fastest = modes[0]
    for mode in modes:
        if needed[mode] <= USABLE_SHARE * smallest:
            reason = f"a device needs about {needed[mode] / _GIGABYTE:.1f} GB of its {smallest / _GIGABYTE:.1f} GB"
            if mode != fastest:
                reason += f", and {needed[fastest] / _GIGABYTE:.1f} GB {_describe(fastest)}"
            return MemoryChoice(mode, reason)
    least = least_memory_mode(memory, device_bytes, virtual_devices, allowed)
    raise UserError(
        f"Training needs at least {needed[least] / _GIGABYTE:.1f} GB of memory per device"
        f" ({_describe(least)}), but {USABLE_SHARE * smallest / _GIGABYTE:.1f} GB of {smallest / _GIGABYTE:.1f} GB are"
        f" usable. {_remedy(memory, smallest, processes, needed[least], modes[-1])}"
    )


def least_memory_mode(
    memory: ModelMemory,
    device_bytes: Sequence[int],
    virtual_devices: int,
    allowed: Collection[MemoryMode] = MEMORY_MODES,
) -> MemoryMode:
    """Return the mode that needs the least memory; see `choose_memory_mode`."""
    processes = len(device_bytes)
    modes = [mode for mode in possible_modes(processes) if mode in allowed]
    return min(modes, key=lambda mode: memory.bytes_per_device(mode, virtual_devices, processes))


def possible_modes(processes: int) -> tuple[MemoryMode, ...]:
    """Return the modes of a number of processes, the fastest first; a single one has nothing to shard with."""
    return MEMORY_MODES if processes > 1 else MEMORY_MODES[:2]


def _sums_before_last_pass(virtual_devices: int, processes: int) -> int:
    """Return the maximum number of partial sums of gradients that a process holds besides the current gradients."""
    of_ranks = [shards_of_rank(virtual_devices, processes, rank) for rank in range(processes)]
    return max(len(aligned_blocks(shards[:end])) for shards in of_ranks for end in range(len(shards)))


def _describe(mode: MemoryMode) -> str:
    return {
        "none": "without sharding",
        "checkpointing": "with activation checkpointing",
        "full": "sharded over all devices",
        "full+checkpointing": "sharded over all devices, with activation checkpointing",
    }[mode]


def _remedy(memory: ModelMemory, smallest: int, processes: int, needed: int, last: MemoryMode) -> str:
    """Return what would fit: more devices of this size, or larger ones."""
    mode: MemoryMode = "full+checkpointing" if "checkpointing" in last else "full"
    larger = f"use devices with at least {math.ceil(needed / USABLE_SHARE / _GIGABYTE)} GB"
    counts = (processes * factor for factor in (2, 4, 8, 16, 32, 64))
    usable = USABLE_SHARE * smallest
    enough = next((count for count in counts if memory.bytes_per_device(mode, count, count) <= usable), None)
    more = f"use {enough} devices of this size in a new job, " if enough is not None else ""
    return f"Either {more}{larger}, or reduce batch_size, max_length or the number of trainable layers."
