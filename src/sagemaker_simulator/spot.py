"""Managed spot training: restarts an interrupted job on new machines with its checkpoints until it is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sagemaker_simulator.interruptions import LINK_KINDS, Interruption
from sagemaker_simulator.job import run_job
from sagemaker_simulator.plan import Hosts, StopRequest, TrainingJob, World
from sagemaker_simulator.result import JobResult


def run_with_interruptions(
    job: TrainingJob,
    root: Path,
    interruptions: Iterable[Interruption],
    stop: StopRequest | None = None,
    worlds: Iterable[World] = (),
) -> tuple[JobResult, ...]:
    """Run the job, apply the next interruption to each start, and restart as the platform would.

    Every start has the same path as its `/opt/ml`, as on the platform, and finds only the checkpoints that reached S3
    from earlier starts. The seed of the sync agents is incremented with each start. After the last interruption the job
    runs to its end. In a start that does not have the host of its interruption, the last host is interrupted instead;
    a start with a single host is killed instead of disturbing its network.

    Args:
        job: The job; its storage is shared by the starts.
        root: Folder used as each machine's `/opt/ml`; deleted after an interruption.
        interruptions: One per start; consumed even if its moment is never reached.
        stop: Allows the caller to stop it.
        worlds: Number of hosts and processes of each restart; when they are exhausted, that of the last one is kept.

    Returns:
        One result per start; all but the last are `Interrupted`.
    """
    results: list[JobResult] = []
    pending, sizes = iter(interruptions), iter(worlds)
    while not results or results[-1].status == "Interrupted":
        if results:
            shutil.rmtree(root)
            world = next(sizes, None)
            job = job if world is None else job.in_world(world)
        agent = replace(job.sync, seed=job.sync.seed + len(results))
        interruption = _fit(next(pending, None), job.hosts)
        results.append(run_job(replace(job, sync=agent), root, interruption, stop))
    return tuple(results)


def _fit(interruption: Interruption | None, hosts: Hosts) -> Interruption | None:
    """Return the interruption for a start that may have fewer hosts than those it was made for."""
    if interruption is None:
        return None
    if hosts.count == 1 and interruption.kind in LINK_KINDS:
        return replace(interruption, kind="kill", host=None)
    if interruption.host is None or interruption.host in hosts.names:
        return interruption
    return replace(interruption, host=hosts.names[-1])
