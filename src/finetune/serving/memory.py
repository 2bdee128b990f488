"""Memory that is left for a further model, on the GPUs or in the container."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from finetune.runtime.memory import release_freed_memory
from finetune.sagemaker.failure import is_about_memory

HOST_FACTOR = 2.0
"""Memory to load a model, relative to its weights: the file's contents exist next to the parameters for a moment."""
GPU_FACTOR = 1.2
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")


def memory_problem(folder: Path) -> str:
    """Return why the model in `folder` does not fit into memory; empty if it does."""
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    host = available_memory()
    if weights * HOST_FACTOR > host:
        return f"loading the model takes {_gb(weights * HOST_FACTOR)}, and {_gb(host)} of memory are available"
    for device in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if weights * GPU_FACTOR > free:
            return f"the model takes {_gb(weights * GPU_FACTOR)}, and {_gb(free)} of GPU {device} are available"
    return ""


def available_memory(meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int:
    """Return the bytes available on this host and within the limit of its container, cached files excluded."""
    text = meminfo.read_text(encoding="ascii")
    free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    return max(0, min([free, *_within_limits(cgroups)]))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of a model means that memory ran out, of the host or of a GPU."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_about_memory(text)


def release_memory() -> None:
    """Return the memory of unloaded models to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    release_freed_memory()


def _within_limits(cgroups: Path) -> Iterator[int]:
    """Memory within the limit of control groups, version 2 or 1."""
    for folder, limit, usage, cache in (
        (cgroups, "memory.max", "memory.current", "inactive_file"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # another version, or "max" for no limit
            allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
            yield allowed - used + int(statistics.get(cache, 0))


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
