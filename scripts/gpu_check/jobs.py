"""Runs whole jobs within this process, from the request files to the exit code, and times their log lines."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune import entry
from gpu_check.tasks import Task
from sagemaker_simulator import Channel, JobFolder, TrainingRequest, lay_out

FIRST_STEP, EPOCH_METRICS = "first batch trained", "epoch="
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class JobFailedError(RuntimeError):
    """A job ended with another exit code than 0; the message is the end of its log."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """A job that succeeded.

    Attributes:
        lines: its log lines, each with the time at which it was written, in seconds.
        folder: its `/opt/ml`.
        peak_mib: peak of the memory that PyTorch allocated on the GPU; `None` on a CPU.
    """

    lines: list[tuple[float, str]]
    folder: JobFolder
    peak_mib: float | None

    @property
    def weights(self) -> Path:
        """The weights of the exported model."""
        return self.folder.model / "model.safetensors"

    def times(self, beginning: str) -> list[float]:
        """Times of the lines with this beginning."""
        return [when for when, line in self.lines if line.startswith(beginning)]

    def contains(self, text: str) -> bool:
        """Whether a line contains the text."""
        return any(text in line for _, line in self.lines)


class _Log(io.TextIOBase):
    """Standard output of a job: waits for the GPU before it records the time of a line.

    Sends SIGTERM to this process on the first line with the requested beginning.
    """

    def __init__(self, terminate_at: str | None) -> None:
        self.lines: list[tuple[float, str]] = []
        self._terminate_at = terminate_at

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.startswith((FIRST_STEP, EPOCH_METRICS)):
                synchronize()
            self.lines.append((time.perf_counter(), line))
            if self._terminate_at is not None and line.startswith(self._terminate_at):
                self._terminate_at = None
                os.kill(os.getpid(), signal.SIGTERM)
        return len(text)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib() -> float | None:
    """Peak of the memory that PyTorch allocated on the GPU since `reset_peak`; `None` on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def reset_peak() -> None:
    """Free cached GPU memory and restart the measurement of its peak."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def new_job(root: Path, task: Task, hyperparameters: Mapping[str, str]) -> JobFolder:
    """Create the `/opt/ml` of a job with a checkpoint folder."""
    named = {"model_name": "resnet18"} if task.kind == "images" else {"label_column": "label"}
    request = TrainingRequest(
        channels=(Channel("train", task.train), Channel("model", task.model)),
        hyperparameters={**named, "validation_fraction": "0", **hyperparameters},
    )
    return lay_out(root, request)


def run_job(folder: JobFolder, *, terminate_at: str | None = None) -> JobRun:
    """Run a job, or resume it from its checkpoint.

    Args:
        folder: its `/opt/ml`.
        terminate_at: beginning of the log line after which the process gets a SIGTERM, as from SageMaker.

    Raises:
        JobFailedError: the exit code is not 0.
    """
    log = _Log(terminate_at)
    reset_peak()
    with _own_logging(), redirect_stdout(log), _environment({**_ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(folder.root)}):
        exit_code = entry.run()
    if exit_code:
        raise JobFailedError("\n".join(line for _, line in log.lines[-8:]))
    return JobRun(log.lines, folder, peak_mib())


@contextmanager
def _own_logging() -> Iterator[None]:
    """Let the job add its own log handler, which writes to its own standard output."""
    logger = logging.getLogger("finetune")
    previous = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers.clear()
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = previous[0], previous[2]
        logger.setLevel(previous[1])


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    previous = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(previous)
