"""Measures the cost of `torch.use_deterministic_algorithms`, and whether repeated trainings have the same bits."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpu_check.jobs import peak_mib, reset_peak
from gpu_check.results import NEEDS_GPU, Results, Table
from gpu_check.scale import Scale
from gpu_check.steps import bits, digest, image_workload, milliseconds, plain_step, seconds_per_step, text_workload

TABLE = Table(
    "Deterministic algorithms",
    "Bare training steps, all layers trainable, in the default precision of jobs, with and without"
    " `torch.use_deterministic_algorithms(True)` and its `CUBLAS_WORKSPACE_CONFIG=:4096:8`. *Repeated* compares the"
    " weights of two runs of the same process. Synchronized wall time.",
    ("model, algorithms", "ms per step", "time / default", "repeated", "peak GPU memory, MiB"),
)
_WORKLOADS: Mapping[str, Any] = {"ResNet-18": image_workload, "MiniLM-L6 size": text_workload}


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add a row for each model with default and with deterministic algorithms."""
    del folder
    defaults: dict[str, float] = {}
    for deterministic in (False, True):
        with new_process(deterministic=deterministic) as pool:
            for name in _WORKLOADS:
                label = f"{name}, {'deterministic' if deterministic else 'default'}"
                try:
                    seconds, repeated, peak = pool.submit(_measure, name, scale).result()
                except Exception as error:  # noqa: BLE001 - the other rows are independent
                    results.add_error(TABLE, label, error)
                    continue
                if not deterministic:
                    defaults[name] = seconds
                ratio = f"{seconds / defaults[name]:.2f}" if name in defaults else "unknown"
                memory = NEEDS_GPU if peak is None else f"{peak:,.0f}"
                results.add(TABLE, label, milliseconds(seconds), ratio, repeated, memory)


@contextmanager
def new_process(*, deterministic: bool) -> Iterator[ProcessPoolExecutor]:
    """A new process for one mode: cuBLAS reads its variable when a process first uses it.

    Without a GPU it is forked, which repeats no import; CUDA does not survive a fork.
    """
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    try:
        with ProcessPoolExecutor(1, context, torch.use_deterministic_algorithms, (deterministic,)) as pool:
            yield pool
    finally:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def _measure(name: str, scale: Scale) -> tuple[float, str, float | None]:
    """Seconds per step, whether a second run has the same bits, and the peak of GPU memory."""
    reset_peak()
    digests, times = [], []
    for _ in range(2):
        workload = _WORKLOADS[name](scale)
        times.append(seconds_per_step(plain_step(workload), scale.steps))
        digests.append(digest(workload.model))
    return min(times), bits(*digests), peak_mib()
