"""Measures the lengths of texts in all processes of a job, each of them a part."""

from __future__ import annotations

from collections.abc import Callable

from finetune.data.loading.batches import Batches
from finetune.distributed.world import World


def measure_lengths(batches: Batches, world: World, interrupted: Callable[[], bool]) -> None:
    """Measure the lengths by which batches are grouped; all processes call this function together.

    Does nothing for a single process, or if a process is to stop: then each process measures the texts when it needs
    their lengths.

    Args:
        batches: the batches.
        world: the processes of the job.
        interrupted: returns whether this process is to stop.

    Raises:
        ProcessLostError: another process has ended.
    """
    grouping = batches.length_grouping
    if world.size == 1 or grouping is None or not world.any(not grouping.is_complete):
        return
    own = grouping.measure(slice(world.rank, None, world.size), interrupted)
    if world.any(own is None):
        return
    for rank, lengths in enumerate(world.all_gather(own)):
        if lengths is not None:
            grouping.set_lengths(slice(rank, None, world.size), lengths)
