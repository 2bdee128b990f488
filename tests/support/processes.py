"""Runs a function in several processes that form a gloo process group."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.spawn import spawn

from finetune.distributed.world import World


def run_processes(size: int, function: Callable[[World, Path], None], folder: Path) -> None:
    """Call `function(world, folder)` in `size` processes; an exception in one of them is raised here."""
    spawn(_run, (size, function, folder, _free_port()), nprocs=size)  # type: ignore[no-untyped-call]  # untyped in torch


def _run(rank: int, size: int, function: Callable[[World, Path], None], folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=120), rank=rank, world_size=size
    )
    try:
        function(World(rank, size, rank), folder)
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
