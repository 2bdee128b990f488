"""Everything that a job needs to be started, once or many times."""

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
    """A job that can be started, also more than once.

    Attributes:
        request: what it is asked for.
        command: what the container runs; `toolkit_command()` for an image whose command is `train`.
        storage: what outlives its machines.
        sync: how the checkpoint agent behaves.
        echo: a stream that gets the job's log while it runs.
        working_folder: where the command runs; `None` for the job's `/opt/ml`.
        container: runs the command in a container; `None` for a process of this machine.
    """

    request: TrainingRequest
    command: tuple[str, ...]
    storage: Storage
    sync: SyncOptions = field(default_factory=SyncOptions)
    echo: TextIO | None = None
    working_folder: Path | None = None
    container: Container | None = None


class StopButton:
    """How a user's wish to stop reaches a running job; pressed from a signal handler or another thread."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._pressed = threading.Event()
        self._grace_seconds = grace_seconds

    @property
    def pressed(self) -> bool:
        """Whether the user wants the job to stop."""
        return self._pressed.is_set()

    def press(self) -> None:
        """Ask for a StopTrainingJob."""
        self._pressed.set()

    def interruption(self) -> Interruption:
        """The stop that was asked for."""
        return Interruption(Moment(0.0), "stop", self._grace_seconds)
