"""Result of a finished job as the platform would report it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.layout import JobFolder

Status = Literal["Completed", "Failed", "Stopped", "Interrupted"]

FAILURE_REASON_CHARACTERS = 1024
"""Maximum length of the failure reason in DescribeTrainingJob."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of one start of a job.

    Attributes:
        status: `Interrupted` is the secondary status of a spot job that waits for its next machine.
        exit_code: Exit code as in Docker: 128 plus the signal number after a signal.
        failure_reason: The first 1,024 characters of the failure file, for a failed job.
        failure: The complete failure file, if any, regardless of the status.
        has_success_file: Whether sagemaker-training wrote `output/success`.
        seconds: Seconds from start to end.
        seconds_after_sigterm: Seconds from the first SIGTERM to the end, if one was sent.
        interruption: Interruption that took place.
        log: File with the job's standard output and error.
        folder: The job's `/opt/ml`; `run_with_interruptions` keeps only the last one.
        model: `model.tar.gz`, if uploaded.
        output: `output.tar.gz`, if uploaded.
    """

    status: Status
    exit_code: int
    failure_reason: str | None
    failure: str | None
    has_success_file: bool
    seconds: float
    seconds_after_sigterm: float | None
    interruption: Interruption | None
    log: Path
    folder: JobFolder
    model: Path | None
    output: Path | None

    def log_text(self) -> str:
        """Return the log; invalid UTF-8 is replaced."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def status_of(exit_code: int, interruption: Interruption | None) -> Status:
    """Return the status: determined by the exit code, unless the platform itself ended the job."""
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
