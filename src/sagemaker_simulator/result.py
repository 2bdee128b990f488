"""Result of a finished job as the platform would report it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sagemaker_simulator.interruptions import FAULT_KINDS, Interruption
from sagemaker_simulator.layout import JobFolder

Status = Literal["Completed", "Failed", "Stopped", "Interrupted"]

FAILURE_REASON_CHARACTERS = 1024
"""Maximum length of the failure reason in DescribeTrainingJob."""


@dataclass(frozen=True, slots=True)
class HostResult:
    """Result of one host of a job.

    Attributes:
        name: Name of the host.
        exit_code: Exit code as in Docker: 128 plus the signal number after a signal.
        failure: The complete failure file, if any.
        was_killed: Whether the host did not end by itself: it was lost, or ended after the time for that.
        seconds: Seconds from the start of the job to the end of this host.
        seconds_after_interruption: Seconds from the beginning of the interruption to the end of this host, if there was
            one; negative if the host had ended before.
        log: File with the host's standard output and error.
        folder: The host's `/opt/ml`.
    """

    name: str
    exit_code: int
    failure: str | None
    was_killed: bool
    seconds: float
    seconds_after_interruption: float | None
    log: Path
    folder: JobFolder


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of one start of a job.

    The attributes `failure`, `exit_code` and `failure_reason` are those of the first host that failed; without a
    failure, they are those of the first host, as are `log`, `folder` and `has_success_file` in any case.

    Attributes:
        status: `Interrupted` is the secondary status of a spot job that waits for its next machine; also that of a job
            that failed because of a simulated fault.
        exit_code: Exit code as in Docker: 128 plus the signal number after a signal.
        failure_reason: The first 1,024 characters of the failure file, for a failed job.
        failure: The complete failure file, if any, regardless of the status.
        has_success_file: Whether sagemaker-training wrote `output/success`.
        seconds: Seconds from the start to the end of the last host.
        seconds_after_sigterm: Seconds from the first SIGTERM to the end, if one was sent.
        seconds_after_interruption: Seconds from the beginning of the interruption to the end of the last host.
        interruption: Interruption that took place.
        log: File with the job's standard output and error.
        folder: The job's `/opt/ml`; `run_with_interruptions` keeps only the last one.
        model: `model.tar.gz`, if uploaded.
        output: `output.tar.gz`, if uploaded.
        clashes: Files in both that more than one host wrote, such as `model/weights`.
        hosts: Results of the hosts in the order of their names.
    """

    status: Status
    exit_code: int
    failure_reason: str | None
    failure: str | None
    has_success_file: bool
    seconds: float
    seconds_after_sigterm: float | None
    seconds_after_interruption: float | None
    interruption: Interruption | None
    log: Path
    folder: JobFolder
    model: Path | None
    output: Path | None
    clashes: tuple[str, ...]
    hosts: tuple[HostResult, ...]

    def log_text(self) -> str:
        """Return the log; invalid UTF-8 is replaced."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def status_of(exit_code: int, interruption: Interruption | None) -> Status:
    """Return the status: determined by the exit code, unless the platform itself ended the job.

    Args:
        exit_code: 0, or the exit code of a host that failed.
        interruption: Interruption that took place.
    """
    if interruption is not None and interruption.kind in FAULT_KINDS:
        return "Interrupted" if exit_code else "Completed"
    if interruption is None:
        return "Completed" if exit_code == 0 else "Failed"
    return "Stopped" if interruption.kind == "stop" else "Interrupted"


def failure_text(folder: JobFolder) -> str | None:
    """Return the content of the failure file, if any."""
    if not folder.failure.is_file():
        return None
    return folder.failure.read_text(encoding="utf-8", errors="replace")


def failure_reason(exit_code: int, failure: str | None) -> str:
    """Return the failure reason in DescribeTrainingJob."""
    return failure[:FAILURE_REASON_CHARACTERS] if failure else f"the container ended with exit code {exit_code}"
