"""Runs a single start of a job, from a new `/opt/ml` to the result reported by the platform."""

from __future__ import annotations

from pathlib import Path

from sagemaker_simulator.cluster import Cluster
from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.machine import Machine
from sagemaker_simulator.plan import StopRequest, TrainingJob
from sagemaker_simulator.result import HostResult, JobResult, failure_reason, failure_text, status_of
from sagemaker_simulator.storage import Storage, upload_artifacts


def run_job(
    job: TrainingJob, root: Path, interruption: Interruption | None = None, stop: StopRequest | None = None
) -> JobResult:
    """Run a job on new machines to its end.

    Args:
        job: The job.
        root: Folder used as its `/opt/ml`; nonexistent or empty. Each of several hosts has a subfolder with its name.
        interruption: Interruption to apply, if the job is still running then.
        stop: Allows the caller to stop it.

    Raises:
        RequestError: `root` is not empty, the interruption does not apply to this job, or several hosts cannot be
            simulated here.
        FileNotFoundError: The command's program does not exist.
    """
    cluster = Cluster(job, root, interruption)
    try:
        applied = cluster.wait(interruption, stop)
        if applied is None:
            cluster.finish()
        else:
            applied = cluster.interrupt(applied, stop)
    finally:
        cluster.destroy()
    return _build_result(cluster, applied, job.storage)


def _build_result(cluster: Cluster, interruption: Interruption | None, storage: Storage) -> JobResult:
    hosts = tuple(_build_host_result(machine, cluster) for machine in cluster.machines)
    failed = sorted((host for host in hosts if host.exit_code), key=lambda host: host.seconds)
    decisive = failed[0] if failed else hosts[0]
    status = status_of(decisive.exit_code, interruption)
    first = cluster.machines[0]
    sigterm_times = [machine.sigterm_time for machine in cluster.machines if machine.sigterm_time is not None]
    folders = [machine.folder for machine in cluster.machines]
    artifacts = None if status == "Interrupted" else upload_artifacts(folders, storage)
    return JobResult(
        status=status,
        exit_code=decisive.exit_code,
        failure_reason=failure_reason(decisive.exit_code, decisive.failure) if status == "Failed" else None,
        failure=decisive.failure,
        has_success_file=first.folder.success.is_file(),
        seconds=cluster.ended - cluster.started,
        seconds_after_sigterm=cluster.ended - min(sigterm_times) if sigterm_times else None,
        seconds_after_interruption=_seconds_since(cluster.interruption_time, cluster.ended),
        interruption=interruption,
        log=first.log,
        folder=first.folder,
        model=None if artifacts is None else artifacts.model,
        output=None if artifacts is None else artifacts.output,
        clashes=() if artifacts is None else artifacts.clashes,
        hosts=hosts,
    )


def _build_host_result(machine: Machine, cluster: Cluster) -> HostResult:
    exit_code = machine.process.exit_code
    assert exit_code is not None  # noqa: S101 - the machine has ended, and so has its process
    return HostResult(
        name=machine.name,
        exit_code=exit_code,
        failure=failure_text(machine.folder),
        was_killed=machine.was_killed,
        seconds=machine.process.ended - cluster.started,
        seconds_after_interruption=_seconds_since(cluster.interruption_time, machine.process.ended),
        log=machine.log,
        folder=machine.folder,
    )


def _seconds_since(start: float | None, end: float) -> float | None:
    return None if start is None else end - start
