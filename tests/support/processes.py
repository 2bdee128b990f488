"""Runs a function in several processes that form a gloo process group, or one such group after another."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.spawn import start_processes

from finetune.distributed.world import World

_PRELOADED = ("torchvision", "finetune.distributed.data_parallel", "finetune.job.run")
"""Imported once, in the process that all others are forked from: importing torch and torchvision takes seconds."""


def run_processes(size: int, function: Callable[[World, Path], None], folder: Path) -> None:
    """Call `function(world, folder)` in `size` processes; an exception in one of them is raised here."""
    run_worlds([size], function, folder)


def run_worlds(sizes: Sequence[int], function: Callable[[World, Path], None], folder: Path) -> None:
    """Call `run_processes` for each size in order, but in the same processes, whose start takes seconds."""
    ports = [_free_port() for _ in sizes]
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
    arguments = (sizes, function, folder, ports)
    start_processes(_run, arguments, nprocs=max(sizes), start_method="forkserver")  # type: ignore[no-untyped-call]  # untyped in torch


def _run(
    rank: int, sizes: Sequence[int], function: Callable[[World, Path], None], folder: Path, ports: Sequence[int]
) -> None:
    torch.set_num_threads(1)
    for size, port in zip(sizes, ports, strict=True):
        if rank >= size:
            continue
        torch.distributed.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=120), rank=rank, world_size=size
        )
        try:
            function(World(rank, size, rank, size), folder)
        except BaseException:
            # The first error is not always the one that is raised in the test.
            traceback.print_exc()
            raise
        finally:
            torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
