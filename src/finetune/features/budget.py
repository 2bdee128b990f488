"""Cache budget: free space on the device, in host memory and on disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune.features.store import StoreLimits

_GB = 10**9
_MEMORY_SHARE, _DISK_SHARE, _DEVICE_SHARE = 0.5, 0.5, 0.25


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """Free space, as far as a job uses it for caches.

    Attributes:
        folder: folder on the fastest local disk.
        device: device of the model.
        size_gb: limit in gigabytes set by the user, if any.
        copies: number of processes of the host that cache for themselves, and share memory and disk equally.
    """

    folder: Path
    device: torch.device
    size_gb: float | None
    copies: int = 1

    def store_limits(self, share: float) -> StoreLimits:
        """Return the store limits for a share of all features."""
        memory, disk = int(self.memory_bytes() * share), int(self._disk() * share)
        on_device = int(self._on_device() * share)
        return StoreLimits(memory, disk, self.folder, self.device, on_device)

    def byte_limits(self, memory_bytes: int, used_bytes: int = 0) -> tuple[int, int]:
        """Return limits for memory and disk; `used_bytes` of the user's limit are already in use."""
        memory_bytes, disk_bytes = max(0, memory_bytes), self._disk()
        if self.size_gb is not None:
            limit = int(self.size_gb * _GB) // self.copies
            disk_bytes = min(disk_bytes, max(0, limit - memory_bytes - used_bytes))
        return memory_bytes, disk_bytes

    def holds(self, required_bytes: int) -> bool:
        """Return whether memory, and that of the device, has room for more features in addition to the cache."""
        on_device = self.device.type == "cpu" or required_bytes <= self._on_device()
        return on_device and required_bytes <= self.memory_bytes()

    def divided(self, copies: int) -> CacheBudget:
        """Return the part of the budget for one of the processes of the host that cache for themselves."""
        return replace(self, copies=copies)

    def halved(self) -> CacheBudget:
        """Return the budget with half of the user's limit, for jobs with two kinds of caches."""
        return self if self.size_gb is None else replace(self, size_gb=self.size_gb / 2)

    def memory_bytes(self) -> int:
        """Available bytes of host memory."""
        return self._limited(int(available_memory() * _MEMORY_SHARE)) // self.copies

    def _disk(self) -> int:
        return self._limited(int(shutil.disk_usage(self.folder).free * _DISK_SHARE)) // self.copies

    def _on_device(self) -> int:
        if self.device.type != "cuda":
            return 0
        # Memory reserved but not allocated by PyTorch, such as features of the previous phase, is available too.
        reserved = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return self._limited(int((torch.cuda.mem_get_info()[0] + reserved) * _DEVICE_SHARE))

    def _limited(self, count: int) -> int:
        return count if self.size_gb is None else min(count, int(self.size_gb * _GB))


def available_memory() -> int:
    """Return the bytes of memory still available to this process, on this host and in its container."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except FileNotFoundError:
        # Not Linux: half of the memory, as the system does not report how much of it is available.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))
