"""Process group of a job: made from the variables of torch's launchers, with NCCL for GPUs and gloo for hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed

from finetune.distributed.world import World
from finetune.errors import PlatformError

TIMEOUT = timedelta(minutes=15)
"""Last resort: the launcher ends the processes of a job sooner if one of them fails."""


@contextmanager
def join_world(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Join the other processes of the job.

    Yields:
        The processes of the job; the current CUDA device is that of the local rank.

    Raises:
        PlatformError: The processes do not find each other, or there are more of them than GPUs.
    """
    rank, size, local_rank, local_size = (
        int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    backend = "gloo"
    # Before they are divided, so that the number per virtual device does not depend on the number of processes.
    threads = torch.get_num_threads() * size // local_size
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise PlatformError(
                f"Process {local_rank} of this host has no GPU: there are {torch.cuda.device_count()} GPUs for"
                f" {local_size} processes."
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        torch.distributed.init_process_group(backend, timeout=TIMEOUT, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise PlatformError(f"Process {rank} of {size} cannot join the others: {error}") from error
    # The launcher numbers the processes host by host, the same number on each.
    world = World(rank, size, local_rank, local_size, rank // local_size, size // local_size, threads=threads)
    yield world.with_levels()
    # Not after a failure: it may wait for operations that other processes have left.
    torch.distributed.destroy_process_group()
