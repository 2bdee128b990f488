"""A managed spot job: interrupted, and started again on a fresh machine with its checkpoints, until it is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.job import run_job
from sagemaker_simulator.plan import StopButton, TrainingJob
from sagemaker_simulator.result import JobResult


def run_with_interruptions(
    job: TrainingJob,
    root: Path,
    interruptions: Iterable[Interruption],
    stop: StopButton | None = None,
) -> tuple[JobResult, ...]:
    """Start the job, disturb each start by the next interruption, and start it again while the platform would.

    Every start gets the same path as its `/opt/ml`, as on the platform, and finds there nothing of the start before but
    the checkpoints that reached S3. The seed of the sync agent goes up by one. After the last interruption the job runs
    undisturbed.

    Args:
        job: the job; its storage connects the starts.
        root: folder that becomes each machine's `/opt/ml` in turn; an interrupted machine's is deleted.
        interruptions: one for each start; one whose moment never comes is used up all the same.
        stop: lets the caller stop it.

    Returns:
        One result for each start; only the last one is other than `Interrupted`.
    """
    results: list[JobResult] = []
    pending = iter(interruptions)
    while not results or results[-1].status == "Interrupted":
        if results:
            shutil.rmtree(root)
        agent = replace(job.sync, seed=job.sync.seed + len(results))
        results.append(run_job(replace(job, sync=agent), root, next(pending, None), stop))
    return tuple(results)
