"""What the platform would say about a job that has come to an end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.layout import JobFolder

Status = Literal["Completed", "Failed", "Stopped", "Interrupted"]

FAILURE_REASON_CHARACTERS = 1024
"""As much of the failure file as DescribeTrainingJob shows."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """One start of a job.

    Attributes:
        status: `Interrupted` is the secondary status of a spot job that waits for its next machine.
        exit_code: as Docker reports it, 128 and the signal's number after a signal.
        failure_reason: for a failed job, the first 1,024 characters of its failure file.
        failure: the whole failure file, where there is one, whatever the status.
        has_success_file: whether sagemaker-training wrote `output/success`.
        seconds: from start to end.
        seconds_after_sigterm: from the first SIGTERM to the end, where one was sent.
        interruption: the one that took place.
        log: file with all that the job wrote to standard output and error.
        folder: the job's `/opt/ml`; after `run_with_interruptions` only the last one is still there.
        model: `model.tar.gz`, where it was uploaded.
        output: `output.tar.gz`, where it was uploaded.
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
        """The log; bytes that are no UTF-8 are replaced."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def status_of(exit_code: int, interruption: Interruption | None) -> Status:
    """What becomes of a job: the exit code decides unless the platform itself ended it."""
    if interruption is None:
        return "Completed" if exit_code == 0 else "Failed"
    return "Stopped" if interruption.kind == "stop" else "Interrupted"


def failure_text(folder: JobFolder) -> str | None:
    """The failure file's content, where there is one."""
    if not folder.failure.is_file():
        return None
    return folder.failure.read_text(encoding="utf-8", errors="replace")


def failure_reason(exit_code: int, failure: str | None) -> str:
    """What DescribeTrainingJob says about a failed job."""
    return failure[:FAILURE_REASON_CHARACTERS] if failure else f"the container ended with exit code {exit_code}"
