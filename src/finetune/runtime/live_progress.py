"""Progress of a job for the process that started it, in a small file that is replaced several times a second."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "FINETUNE_PROGRESS"
"""Environment variable with the path of the file; without it, no progress is written."""

_INTERVAL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the current stage of a job.

    Attributes:
        stage: name of the stage, such as `epoch 3`.
        done: units done.
        total: all units of the stage; 0 if their number is unknown.
        unit: `steps` or `records`.
        records_per_second: speed; `None` if unknown.
        loss: mean training loss of the epoch; `None` outside of epochs.
    """

    stage: str
    done: int
    total: int
    unit: str = "records"
    records_per_second: float | None = None
    loss: float | None = None


class ProgressWriter:
    """Writes progress to a file, at most five times a second.

    Args:
        path: the file; `None` to write nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last = -_INTERVAL_SECONDS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ProgressWriter:
        """Return the writer of this process; only the first process of a job writes."""
        path = environment.get(VARIABLE)
        return cls(Path(path) if path and environment.get("RANK", "0") == "0" else None)

    @property
    def is_enabled(self) -> bool:
        """Whether progress is written."""
        return self._path is not None

    def due(self) -> bool:
        """Whether the last progress is old enough to be replaced."""
        return self._path is not None and time.monotonic() - self._last >= _INTERVAL_SECONDS

    def write(self, progress: Progress) -> None:
        """Replace the file if it is due; a full or lost disk does not fail the job."""
        if self._path is None or not self.due():
            return
        self._last = time.monotonic()
        partial = self._path.with_suffix(".partial")
        with suppress(OSError):
            partial.write_text(json.dumps(asdict(progress)), encoding="utf-8")
            partial.replace(self._path)


def read_progress(path: Path) -> Progress | None:
    """Return the progress in a file; `None` if there is none."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
