"""Managed spot training: restarts an interrupted job on new machines with its checkpoints until it is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.job import run_job
from sagemaker_simulator.plan import StopRequest, TrainingJob
from sagemaker_simulator.result import JobResult


def run_with_interruptions(
    job: TrainingJob,
    root: Path,
    interruptions: Iterable[Interruption],
    stop: StopRequest | None = None,
) -> tuple[JobResult, ...]:
    """Run the job, apply the next interruption to each start, and restart as the platform would.

    Every start has the same path as its `/opt/ml`, as on the platform, and finds only the checkpoints that reached S3
    from earlier starts. The seed of the sync agent is incremented with each start. After the last interruption the job
    runs to its end.

    Args:
        job: The job; its storage is shared by the starts.
        root: Folder used as each machine's `/opt/ml`; deleted after an interruption.
        interruptions: One per start; consumed even if its moment is never reached.
        stop: Allows the caller to stop it.

    Returns:
        One result per start; all but the last are `Interrupted`.
    """
    results: list[JobResult] = []
    pending = iter(interruptions)
    while not results or results[-1].status == "Interrupted":
        if results:
            shutil.rmtree(root)
        agent = replace(job.sync, seed=job.sync.seed + len(results))
        results.append(run_job(replace(job, sync=agent), root, next(pending, None), stop))
    return tuple(results)
