"""Description of a job that can be started once or repeatedly."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sagemaker_simulator.configuration import TrainingRequest
from sagemaker_simulator.container import Container
from sagemaker_simulator.interruptions import GRACE_SECONDS, Interruption, Moment
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncOptions


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A job that can be started repeatedly.

    Attributes:
        request: The training request.
        command: Command of the container; `toolkit_command()` for an image whose command is `train`.
        storage: Storage that persists across its machines.
        sync: Behavior of the checkpoint sync agent.
        echo: Stream that receives the job's log while it runs.
        working_folder: Working directory of the command; `None` for the job's `/opt/ml`.
        container: Container that runs the command; `None` for a local process.
    """

    request: TrainingRequest
    command: tuple[str, ...]
    storage: Storage
    sync: SyncOptions = field(default_factory=SyncOptions)
    echo: TextIO | None = None
    working_folder: Path | None = None
    container: Container | None = None


class StopRequest:
    """Requests a running job to stop, from a signal handler or another thread."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._pressed = threading.Event()
        self._grace_seconds = grace_seconds

    @property
    def submitted(self) -> bool:
        """Whether a stop was requested."""
        return self._pressed.is_set()

    def submit(self) -> None:
        """Request a StopTrainingJob."""
        self._pressed.set()

    def interruption(self) -> Interruption:
        """Return the requested stop as an interruption."""
        return Interruption(Moment(0.0), "stop", self._grace_seconds)
