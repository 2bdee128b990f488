"""Measures data parallelism over virtual devices: time and memory per step, and equality of bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.distributed.data_parallel import DataParallel, PassContext
from finetune.distributed.virtual_devices import rows_of_shard, shard_seed
from finetune.distributed.world import World
from gpu_check.jobs import peak_mib, reset_peak
from gpu_check.results import NEEDS_GPU, Results, Table
from gpu_check.scale import DRY, GPU, Scale
from gpu_check.steps import Workload, bits, digest, image_workload, milliseconds, plain_step, seconds_per_step
from tests.support.processes import run_processes

TIME_TABLE = Table(
    "Virtual devices on one device",
    "Steps of ResNet-18, all layers trainable, on a batch that is already on the device: a bare PyTorch step on the"
    " whole batch, and `DataParallel` steps that divide it among virtual devices in one process. *Repeated* compares"
    " the weights of two runs. Synchronized wall time.",
    ("step", "ms", "time / bare step", "repeated", "peak GPU memory, MiB"),
)
PROCESS_TABLE = Table(
    "Two processes on one device",
    "Weights of ResNet-18 after three `DataParallel` steps: two processes that share the device and exchange tensors by"
    " gloo, compared with one process. Both have the same number of virtual devices.",
    ("virtual devices, algorithms", "one process repeated", "two processes, one process", "both processes"),
)
_PROCESS_STEPS = 3


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add the rows of both tables."""
    bare = _add_time_row(scale, results, "bare step", None, None)
    for count in scale.virtual_devices:
        _add_time_row(scale, results, f"{count} virtual device{'s' * (count > 1)}", count, bare)
    for count in scale.virtual_devices[1:3]:
        for deterministic in scale.process_modes:
            label = f"{count}, {'deterministic' if deterministic else 'default'}"
            try:
                target = folder / f"processes-{count}-{deterministic}"
                target.mkdir(parents=True)
                results.add(PROCESS_TABLE, label, *_compare_processes(scale, count, target, deterministic))
            except Exception as error:  # noqa: BLE001 - the other rows are independent
                results.add_error(PROCESS_TABLE, label, error)


def _add_time_row(scale: Scale, results: Results, label: str, count: int | None, bare: float | None) -> float | None:
    """Measure twice; returns the seconds of the first run."""
    try:
        reset_peak()
        seconds, first = _run(scale, count)
        peak = peak_mib()
        _, second = _run(scale, count)
    except Exception as error:  # noqa: BLE001 - the other rows are independent
        results.add_error(TIME_TABLE, label, error)
        return None
    ratio = f"{seconds / bare:.2f}" if bare else "1.00" if count is None else "unknown"
    memory = NEEDS_GPU if peak is None else f"{peak:,.0f}"
    results.add(TIME_TABLE, label, milliseconds(seconds), ratio, bits(first, second), memory)
    return seconds


def _run(scale: Scale, virtual_devices: int | None) -> tuple[float, str]:
    """Seconds per step and the digest of the weights."""
    workload = image_workload(scale)
    step = plain_step(workload) if virtual_devices is None else parallel_step(workload, virtual_devices, World())
    return seconds_per_step(step, scale.steps), digest(workload.model)


def parallel_step(workload: Workload, virtual_devices: int, world: World) -> Callable[[], None]:
    """A step that divides the batch among virtual devices."""
    parallel = DataParallel(workload.model, workload.forward, virtual_devices, world)
    optimizer = workload.optimizer()
    records = len(workload.targets)
    rows = [rows_of_shard(records, virtual_devices, shard) for shard in range(virtual_devices)]

    def run_shard(shard: int, context: PassContext) -> Tensor:
        torch.manual_seed(shard_seed(0, 0, shard))
        inputs = {name: value[rows[shard]] for name, value in workload.inputs.items()}
        with context(True):
            logits = parallel.forward(inputs)
            loss = nn.functional.cross_entropy(logits, workload.targets[rows[shard]], reduction="sum")
            (loss / records).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        return loss.detach().double().reshape(1)

    def step() -> None:
        parallel.step([row.stop > row.start for row in rows], run_shard, 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _compare_processes(scale: Scale, count: int, folder: Path, deterministic: bool) -> tuple[str, str, str]:
    train = partial(_train, dry=scale is DRY, count=count, deterministic=deterministic)
    digests: dict[int, list[list[str]]] = {}
    for size in (1, 2):
        target = folder / str(size)
        target.mkdir()
        run_processes(size, train, target)
        digests[size] = [(target / str(rank)).read_text("utf-8").split() for rank in range(size)]
    (first, repeated), pair = digests[1][0], digests[2]
    return bits(first, repeated), bits(first, pair[0][0]), bits(pair[0][0], pair[1][0])


def _train(world: World, folder: Path, *, dry: bool, count: int, deterministic: bool) -> None:
    """Train in a process of the world, twice if it is the only one, and write the digests of the weights."""
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    digests = []
    for _ in range(2 if world.size == 1 else 1):
        workload = image_workload(DRY if dry else GPU)
        step = parallel_step(workload, count, world)
        for _ in range(_PROCESS_STEPS):
            step()
        digests.append(digest(workload.model))
    (folder / str(world.rank)).write_text(" ".join(digests), "utf-8")
