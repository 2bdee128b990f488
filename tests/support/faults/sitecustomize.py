"""Imported by every Python process that finds this folder on its path: provokes failures in its main thread by signals.

SIGUSR1 raises an exception, SIGUSR2 runs out of memory, SIGHUP ends the process as if it had succeeded,
SIGALRM lets it compute forever in a training step, which counts as endless after three seconds.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def _fail(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise ZeroDivisionError("provoked by the test")


def _run_out_of_memory(number: int, frame: FrameType | None) -> None:
    del number, frame
    import torch

    torch.empty(1 << 60)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os._exit(0)


def _compute_forever(number: int, frame: FrameType | None) -> None:
    del number, frame
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from finetune.runtime import computations

    passes = 0

    def loop(module: torch.nn.Module, inputs: object) -> None:
        nonlocal passes
        del inputs
        passes += isinstance(module, DistributedDataParallel)
        # A step of two batches that has begun before has the earlier limit.
        while passes > 2:
            pass

    computations.MIN_SECONDS, computations.FACTOR = 3.0, 1
    torch.nn.modules.module.register_module_forward_pre_hook(loop)


if "RANK" in os.environ:
    signal.signal(signal.SIGUSR1, _fail)
    signal.signal(signal.SIGUSR2, _run_out_of_memory)
    signal.signal(signal.SIGHUP, _end)
    signal.signal(signal.SIGALRM, _compute_forever)
