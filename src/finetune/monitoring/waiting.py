"""Warns if the device waits for data, with advice."""

from __future__ import annotations

from dataclasses import dataclass

_MIN_SHARE = 0.1
_MIN_SECONDS = 1.0
"""Shorter waiting times are not reported."""


@dataclass(frozen=True, slots=True)
class DataWait:
    """Data waiting time of an epoch.

    Attributes:
        seconds: Seconds spent waiting for batches.
        epoch_seconds: Seconds of the epoch, including evaluation.
        threads: Worker threads at the end of the epoch.
        cores: CPU cores usable by the process.
        workers_set: Whether the user set the number of threads.
    """

    seconds: float
    epoch_seconds: float
    threads: int
    cores: int
    workers_set: bool


def waiting_line(epoch: int, wait: DataWait) -> str | None:
    """Return a log line if over a tenth of an epoch, and a significant time, was spent waiting.

    Args:
        epoch: Epoch from 0.
        wait: Data waiting time of the epoch.
    """
    share = wait.seconds / max(wait.epoch_seconds, 1e-9)
    if share <= _MIN_SHARE or wait.seconds < _MIN_SECONDS:
        return None
    threads = "1 thread" if wait.threads == 1 else f"{wait.threads or 'no'} threads"
    cores = "1 core" if wait.cores == 1 else f"{wait.cores} cores"
    return (
        f"epoch {epoch + 1}: the device waited for data in {min(1.0, share):.0%} of the time ({wait.seconds:.1f} of"
        f" {wait.epoch_seconds:.1f} s), with {threads} on {cores}: {_advice(wait)}."
    )


def _advice(wait: DataWait) -> str:
    if wait.workers_set and wait.threads < wait.cores:
        return "increase workers, or leave it unset to add worker threads automatically"
    if wait.threads < wait.cores:
        return "a worker thread is added automatically when a batch is late"
    return "choose an instance with more cores or a faster disk, or use smaller files"
