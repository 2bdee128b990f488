"""The machine and versions of a benchmark."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CORES = 2
"""Cores of every side without a GPU; with a GPU, all cores are used."""
_LIBRARIES = ("torch", "torchvision", "transformers", "accelerate", "timm")


def keep_to_cores(count: int | None = None) -> None:
    """Limit this process and its children to `count` cores and as many threads."""
    count = count or (os.cpu_count() if on_gpu() else None) or CORES
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))


def on_gpu() -> bool:
    """Whether jobs will use a GPU."""
    return torch.cuda.is_available()


def heading() -> str:
    """One line: processor, GPU, cores, threads, load and versions."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    device = torch.cuda.get_device_name() if on_gpu() else "no GPU"
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {device};"
        f" load {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
