"""How much may be kept, on the device, in memory and on the disk?"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune.data.loading.byte_arena import Room
from finetune.features.store import Place

_GB = 10**9
_MEMORY_SHARE, _DISK_SHARE, _DEVICE_SHARE = 0.5, 0.5, 0.25


@dataclass(frozen=True, slots=True)
class Space:
    """What is free, as far as a job takes it for what it keeps.

    Attributes:
        folder: on the fastest local disk.
        device: of the network.
        size_gb: most gigabytes, where the user says so.
    """

    folder: Path
    device: torch.device
    size_gb: float | None

    def place(self, share: float) -> Place:
        """For a share of all features."""
        memory, disk = int(self.memory() * share), int(self._disk() * share)
        on_device = int(self._on_device() * share)
        return Place(memory, disk, self.folder, self.device, on_device)

    def room(self, memory_bytes: int, beside: int = 0) -> Room:
        """For so many bytes in memory, and behind that on the disk; `beside` them others were given already."""
        memory_bytes, behind = max(0, memory_bytes), self._disk()
        if self.size_gb is not None:
            behind = min(behind, max(0, int(self.size_gb * _GB) - memory_bytes - beside))
        return Room(memory_bytes, behind, self.folder)

    def half(self) -> Space:
        """Of what the user allows, where two kinds of things are kept."""
        return self if self.size_gb is None else replace(self, size_gb=self.size_gb / 2)

    def memory(self) -> int:
        """Bytes of the host's memory."""
        return self._limited(int(available_memory() * _MEMORY_SHARE))

    def _disk(self) -> int:
        return self._limited(int(shutil.disk_usage(self.folder).free * _DISK_SHARE))

    def _on_device(self) -> int:
        if self.device.type != "cuda":
            return 0
        # What PyTorch holds and has given to nobody, such as the features of the phase before, is free for us.
        held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return self._limited(int((torch.cuda.mem_get_info()[0] + held) * _DEVICE_SHARE))

    def _limited(self, count: int) -> int:
        return count if self.size_gb is None else min(count, int(self.size_gb * _GB))


def available_memory() -> int:
    """Bytes of memory that this process may still take, on this host and in its container."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))
