"""Warns if the device waits for data, with advice."""

from __future__ import annotations

from dataclasses import dataclass

_SHARE = 0.1
_SECONDS = 1.0
"""Shorter waiting times are not reported."""


@dataclass(frozen=True, slots=True)
class DataWait:
    """Data waiting time of an epoch.

    Attributes:
        seconds: Seconds spent waiting for batches.
        whole: Seconds of the epoch, including evaluation.
        threads: Worker threads at the end of the epoch.
        cores: CPU cores usable by the process.
        asked: Whether the user set the number of threads.
    """

    seconds: float
    whole: float
    threads: int
    cores: int
    asked: bool


def waiting_line(epoch: int, waiting: DataWait) -> str | None:
    """Return a log line if over a tenth of an epoch, and a significant time, was spent waiting.

    Args:
        epoch: Epoch from 0.
        waiting: Data waiting time of the epoch.
    """
    share = waiting.seconds / max(waiting.whole, 1e-9)
    if share <= _SHARE or waiting.seconds < _SECONDS:
        return None
    threads = "1 thread" if waiting.threads == 1 else f"{waiting.threads or 'no'} threads"
    cores = "1 core" if waiting.cores == 1 else f"{waiting.cores} cores"
    return (
        f"epoch {epoch + 1}: the device waited for data in {min(1.0, share):.0%} of the time ({waiting.seconds:.1f} of"
        f" {waiting.whole:.1f} s), with {threads} on {cores}: {_advice(waiting)}."
    )


def _advice(waiting: DataWait) -> str:
    if waiting.asked and waiting.threads < waiting.cores:
        return "set workers higher, or leave it out to have as many as it takes"
    if waiting.threads < waiting.cores:
        return "another one begins whenever a batch is late"
    return "choose an instance with more cores or a faster disk, or give smaller files"
