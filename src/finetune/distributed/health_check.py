"""Check of all devices and of the connections between them before the first step."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import timedelta

import torch
import torch.distributed

from finetune.distributed.world import ProcessLostError, World
from finetune.errors import PlatformError

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(seconds=60)
_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Size of the exchanged tensor, float32: 4 MiB, 64 MiB."""
_POLL_SECONDS = 0.001


def check_devices(world: World, device: torch.device) -> str:
    """Exchange a known tensor between all processes, and compare the sum with the expected one.

    Args:
        world: The processes; each of them calls this function.
        device: Device of this process.

    Returns:
        A line for the plan: the devices, and the bandwidth of the exchange.

    Raises:
        PlatformError: A device computes wrong sums, or the exchange does not end within a minute.
        ProcessLostError: Another process has ended.
    """
    names = world.all_gather(_device_name(device))
    counts = Counter(names)
    if len(counts) > 1:
        listed = ", ".join(f"{count} x {name}" for name, count in counts.items())
        logger.warning("The devices of this job differ: %s. The slowest one determines the speed.", listed)
    # The first exchange opens the connections.
    _all_reduce(world, torch.ones(1, device=device))
    values = torch.arange(_ELEMENTS[device.type], dtype=torch.float32, device=device) % 1024
    message = values * (world.rank + 1)
    started = time.monotonic()
    _all_reduce(world, message)
    seconds = time.monotonic() - started
    # Integers below 2^24 are exact in float32, in any order of the sum.
    is_wrong = not torch.equal(message, values * (world.size * (world.size + 1) // 2))
    wrong = [rank for rank, flag in enumerate(world.all_gather(is_wrong)) if flag]
    if wrong:
        raise PlatformError(
            f"The sum of a known tensor over all processes is wrong in process {', '.join(map(str, wrong))}: a device"
            " or a connection is broken. Start the job again, on other instances."
        )
    sent = 2 * (world.size - 1) / world.size * message.numel() * message.element_size()
    return f"all-reduce of {message.nbytes / 2**20:.0f} MiB at {sent / seconds / 1e9:.2f} GB/s per process"


def _all_reduce(world: World, message: torch.Tensor) -> None:
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    try:
        work = torch.distributed.all_reduce(message, group=world.group, async_op=True)
        while not work.is_completed():  # `wait` of NCCL returns as soon as the operation is queued
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"The processes cannot exchange tensors: no sum within {_TIMEOUT.total_seconds():.0f} s. Check the"
                    " security groups and subnets of the job, and NCCL_DEBUG=INFO in the environment of the estimator."
                )
            time.sleep(_POLL_SECONDS)
        work.wait()
    except RuntimeError as error:
        cause = next(iter(str(error).splitlines()), "")
        raise ProcessLostError(f"Another process of the job has ended or cannot be reached: {cause}") from error
    if message.device.type == "cuda":
        torch.cuda.synchronize(message.device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
