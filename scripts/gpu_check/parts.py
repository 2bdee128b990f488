"""The parts of the check, each with its tables and its time budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpu_check import cuda_tests, determinism, exact_jobs, exact_passes, speed, virtual_devices
from gpu_check.results import Results, Table
from gpu_check.scale import DRY, GPU, Scale


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the check.

    Attributes:
        seconds: maximum duration; rows that are finished by then are kept.
    """

    tables: tuple[Table, ...]
    seconds: int
    check: Callable[[Scale, Path, Results], None]


PARTS = {
    "tests": Part((cuda_tests.TABLE,), 45, cuda_tests.check),
    "passes": Part((exact_passes.TABLE,), 30, exact_passes.check),
    "jobs": Part((exact_jobs.TABLE,), 150, exact_jobs.check),
    "virtual-devices": Part((virtual_devices.TIME_TABLE, virtual_devices.PROCESS_TABLE), 70, virtual_devices.check),
    "determinism": Part((determinism.TABLE,), 45, determinism.check),
    "speed": Part((speed.TABLE,), 240, speed.check),
}


def run_part(name: str, folder: Path, rows: Path, log: Path, dry: bool) -> None:
    """Run a part in a process of its own, whose output goes to `log`."""
    os.setsid()  # so that it can be ended with all processes that it starts
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    PARTS[name].check(DRY if dry else GPU, folder, Results(rows))
