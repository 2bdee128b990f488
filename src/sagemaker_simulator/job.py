"""Runs a single start of a job, from a new `/opt/ml` to the result reported by the platform."""

from __future__ import annotations

from pathlib import Path

from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.machine import Machine
from sagemaker_simulator.plan import StopRequest, TrainingJob
from sagemaker_simulator.result import JobResult, failure_reason, failure_text, status_of
from sagemaker_simulator.storage import Storage, upload_artifacts


def run_job(
    job: TrainingJob, root: Path, interruption: Interruption | None = None, stop: StopRequest | None = None
) -> JobResult:
    """Run a job on a new machine to its end.

    Args:
        job: The job.
        root: Folder used as its `/opt/ml`; nonexistent or empty.
        interruption: Interruption to apply, if the job is still running then.
        stop: Allows the caller to stop it.

    Raises:
        RequestError: `root` is not empty.
        FileNotFoundError: The command's program does not exist.
    """
    machine = Machine(job, root, interruption.moment.watch if interruption else None)
    try:
        applied = machine.wait(interruption, stop)
        if applied is None:
            machine.end()
        else:
            machine.interrupt(applied)
    finally:
        machine.destroy()
    return _build_result(machine, applied, job.storage)


def _build_result(machine: Machine, interruption: Interruption | None, storage: Storage) -> JobResult:
    exit_code = machine.process.exit_code
    assert exit_code is not None  # noqa: S101 - the machine has ended, and so has its process
    ended = machine.process.ended
    status = status_of(exit_code, interruption)
    failure = failure_text(machine.folder)
    model, output = (None, None) if status == "Interrupted" else upload_artifacts(machine.folder, storage)
    return JobResult(
        status=status,
        exit_code=exit_code,
        failure_reason=failure_reason(exit_code, failure) if status == "Failed" else None,
        failure=failure,
        has_success_file=machine.folder.success.is_file(),
        seconds=ended - machine.process.started,
        seconds_after_sigterm=None if machine.sigterm_time is None else ended - machine.sigterm_time,
        interruption=interruption,
        log=machine.log,
        folder=machine.folder,
        model=model,
        output=output,
    )
