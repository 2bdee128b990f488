"""Does the device wait for data, and what would change that?"""

from __future__ import annotations

from dataclasses import dataclass

_SHARE = 0.1
_SECONDS = 1.0
"""Less is told to nobody."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How an epoch went.

    Attributes:
        seconds: for which its batches were waited for.
        whole: seconds of the epoch, evaluation included.
        threads: that prepared batches at its end.
        cores: that the process may use.
        asked: whether the user gave the number of threads.
    """

    seconds: float
    whole: float
    threads: int
    cores: int
    asked: bool


def waiting_line(epoch: int, waiting: Waiting) -> str | None:
    """A line for the log where more than a tenth of an epoch was spent on waiting, and it is worth a word.

    Args:
        epoch: from 0.
        waiting: how it went.
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


def _advice(waiting: Waiting) -> str:
    if waiting.asked and waiting.threads < waiting.cores:
        return "set workers higher, or leave it out to have as many as it takes"
    if waiting.threads < waiting.cores:
        return "another one begins whenever a batch is late"
    return "choose an instance with more cores or a faster disk, or give smaller files"
