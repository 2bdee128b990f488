"""Number of processes on this host: one for each GPU, counted without importing torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE_FILE = re.compile(r"nvidia\d+")


LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Set by torch's launchers in every process that they start."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher such as torchrun started this process, as one of the processes of a job."""
    return all(name in environment for name in LAUNCHER_VARIABLES)


def process_count(
    requested: int | None, environment: Mapping[str, str] = os.environ, device_folder: Path = Path("/dev")
) -> int:
    """Return the number of processes on this host.

    Args:
        requested: The hyperparameter `processes_per_host`.
        environment: Variables that hide GPUs from CUDA.
        device_folder: Folder of the device files.
    """
    return requested or max(1, gpu_count(environment, device_folder))


def gpu_model(gpu_folder: Path = Path("/proc/driver/nvidia/gpus")) -> str | None:
    """Return the model of the first GPU of this host as its driver names it; `None` without one."""
    for path in sorted(gpu_folder.glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                return value.strip()
    return None


def gpu_count(environment: Mapping[str, str] = os.environ, device_folder: Path = Path("/dev")) -> int:
    """Return the number of GPUs that CUDA offers to this process.

    A container has a device file for each of its GPUs. `CUDA_VISIBLE_DEVICES` selects some of them by index or UUID, up
    to the first invalid entry (CUDA C++ programming guide, section on environment variables).
    """
    try:
        present = sum(1 for path in device_folder.iterdir() if _DEVICE_FILE.fullmatch(path.name))
    except OSError:
        present = 0
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    count = 0
    for entry in visible.split(","):
        name = entry.strip()
        if not name or (name.lstrip("-").isdigit() and not 0 <= int(name) < present):
            break
        count += 1
    return min(count, present)
