"""Runs a job again with half the batch size after the device ran out of memory.

The job starts from the beginning with half of `batch_size` and twice `gradient_accumulation_steps`, so that a step has
as many records, and its result is that of a job with these hyperparameters. Checkpoints store how often the batch was
halved, so that a resumed job does not run out of memory again.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace

import torch

from finetune.distributed.world import World
from finetune.errors import UserError
from finetune.job.request import Request
from finetune.job.resume import HALVINGS, FoundCheckpoint

logger = logging.getLogger(__name__)


class SmallerBatchNeededError(Exception):
    """The checkpoint was written by this job after its batch was halved.

    Attributes:
        halvings: how often it was halved.
    """

    def __init__(self, halvings: int) -> None:
        super().__init__(f"the batch was halved {halvings} times")
        self.halvings = halvings


def run_with_smaller_batches(request: Request, world: World, run: Callable[[Request], None]) -> None:
    """Run a job, and run it again with a smaller batch as long as it runs out of memory.

    Args:
        request: the request.
        world: the processes of the job.
        run: runs the job.

    Raises:
        UserError: the batch cannot be halved.
    """
    attempt: Request | None = request
    while attempt is not None:
        attempt = _run(attempt, request, world, run)
        # The exception, which refers to the tensors of the job, is gone.
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # untyped in torch
            torch.cuda.empty_cache()


def _run(attempt: Request, request: Request, world: World, run: Callable[[Request], None]) -> Request | None:
    """Run an attempt; return the next one, if any."""
    try:
        run(attempt)
    except SmallerBatchNeededError as needed:
        return with_halvings(request, needed.halvings)
    except torch.OutOfMemoryError as error:
        optimization = attempt.spec.optimization
        obstacle = _obstacle(attempt, world)
        if obstacle:
            raise UserError(
                f"The device ran out of memory with batch_size={optimization.batch_size}: halve it, and double"
                f" gradient_accumulation_steps to keep the number of records per step. The job does not do so itself:"
                f" {obstacle}."
            ) from error
        smaller = with_halvings(request, attempt.spec.halvings + 1)
        logger.warning(
            "The device ran out of memory with batch_size=%d. Starting again with batch_size=%d and"
            " gradient_accumulation_steps=%d, which keeps the number of records per step.",
            optimization.batch_size,
            smaller.spec.optimization.batch_size,
            smaller.spec.optimization.gradient_accumulation_steps,
        )
        return smaller
    return None


def _obstacle(request: Request, world: World) -> str:
    """Return the reason why a job cannot start again with a smaller batch; empty if it can."""
    spec = request.spec
    size = spec.optimization.batch_size
    reasons = {
        "out_of_memory=fail": spec.distributed.out_of_memory == "fail",
        "strategy=evaluate takes no steps": not spec.strategy.trains,
        f"it has {world.size} processes": world.size > 1,
        "channels in Pipe mode cannot be read again": bool(request.pipes()),
        f"batch_size={size} has no half of two or more records": size < 4 or size % 2 > 0,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def with_halvings(request: Request, halvings: int) -> Request:
    """Return the request with its batch halved several times."""
    optimization, factor = request.spec.optimization, 2**halvings
    smaller = optimization.model_copy(
        update={
            "batch_size": optimization.batch_size // factor,
            "gradient_accumulation_steps": optimization.gradient_accumulation_steps * factor,
        }
    )
    return replace(request, spec=replace(request.spec, optimization=smaller, halvings=halvings))


def match_halvings(found: FoundCheckpoint, halvings: int, world: World) -> FoundCheckpoint:
    """Return the checkpoint to resume from, without one that was written before the batch was halved.

    Args:
        found: the newest checkpoint.
        halvings: how often the batch of this job is halved.
        world: the processes of the job.

    Raises:
        SmallerBatchNeededError: the checkpoint was written after the batch was halved more often.
    """
    stored = 0
    if found.checkpoint is not None:
        value = found.checkpoint.manifest.info.specification.fields.get(HALVINGS, 0)
        stored = value if isinstance(value, int) and 0 <= value < 64 else 0
    stored, resumes = world.broadcast((stored, found.checkpoint is not None))
    if stored > halvings:
        raise SmallerBatchNeededError(stored)
    if resumes and stored < halvings:
        return replace(found, checkpoint=None, devices=None)
    return found
