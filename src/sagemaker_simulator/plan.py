"""Description of a job that can be started once or repeatedly."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from sagemaker_simulator.configuration import RequestError, TrainingRequest
from sagemaker_simulator.container import Container
from sagemaker_simulator.interruptions import GRACE_SECONDS, Interruption, Moment
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncOptions

PROCESSES_HYPERPARAMETER = "processes_per_host"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts of a job, named `algo-1` and so on.

    Attributes:
        count: Number of hosts. With more than one, each has its own namespaces, which needs root.
        start_delays: Seconds by which hosts start later than the job, by name; infinite for a host that never starts.
        names_delay_seconds: Seconds after the start during which a host can resolve only its own name.
        failure_seconds: Seconds after the failure or loss of a host, or after a link was cut, until the other hosts are
            killed.
    """

    count: int = 1
    start_delays: Mapping[str, float] = field(default_factory=dict)
    names_delay_seconds: float = 0.0
    failure_seconds: float = GRACE_SECONDS

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RequestError(f"{self.count} hosts: a job has at least one host")
        unknown = sorted(self.start_delays.keys() - set(self.names))
        if unknown:
            raise RequestError(f"start delay of host {unknown[0]!r}: the hosts are {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the hosts."""
        return tuple(f"algo-{number + 1}" for number in range(self.count))


@dataclass(frozen=True, slots=True)
class World:
    """Number of processes of one start of a job.

    Attributes:
        hosts: Number of hosts.
        processes_per_host: Value of the hyperparameter `processes_per_host`; `None` keeps the request's.
    """

    hosts: int
    processes_per_host: int | None = None


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
        hosts: The hosts; their names replace those in the request if there are several.
    """

    request: TrainingRequest
    command: tuple[str, ...]
    storage: Storage
    sync: SyncOptions = field(default_factory=SyncOptions)
    echo: TextIO | None = None
    working_folder: Path | None = None
    container: Container | None = None
    hosts: Hosts = field(default_factory=Hosts)

    def in_world(self, world: World) -> TrainingJob:
        """Return the job with another number of hosts and processes."""
        names = Hosts(world.hosts).names
        delays = {name: seconds for name, seconds in self.hosts.start_delays.items() if name in names}
        request = self.request
        if world.processes_per_host is not None:
            parameters = {**request.hyperparameters, PROCESSES_HYPERPARAMETER: str(world.processes_per_host)}
            request = replace(request, hyperparameters=parameters)
        return replace(self, request=request, hosts=replace(self.hosts, count=world.hosts, start_delays=delays))

    def on_host(self, number: int) -> TrainingJob:
        """Return the job from the view of one host.

        Args:
            number: Number of the host, from 0.
        """
        if self.hosts.count == 1:
            return self
        names = self.hosts.names
        request = replace(
            self.request,
            resources=replace(self.request.resources, hosts=names, current_host=names[number]),
            channels=tuple(channel.on_host(number, self.hosts.count) for channel in self.request.channels),
        )
        return replace(self, request=request, sync=replace(self.sync, seed=self.sync.seed * self.hosts.count + number))


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
