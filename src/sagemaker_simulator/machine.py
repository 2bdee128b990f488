"""Simulated machine: the job's process and the sync agent, with a common lifetime."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.container import CONTAINER_ROOT
from sagemaker_simulator.environment import job_environment
from sagemaker_simulator.layout import feed_pipes, lay_out
from sagemaker_simulator.log import LineWatch, LogOptions
from sagemaker_simulator.plan import TrainingJob
from sagemaker_simulator.process import JobProcess, Program
from sagemaker_simulator.sync_agent import SyncAgent, restore


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """Surroundings of a machine.

    Attributes:
        root: Folder used as its `/opt/ml`; nonexistent or empty.
        log: Destination of the job's output.
        watch: Receives every line of the output.
        enter: Command that runs a command on this host; empty for this machine itself.
    """

    root: Path
    log: LogOptions
    watch: LineWatch
    enter: Sequence[str] = ()


class Machine:
    """A new `/opt/ml` with the job running on it.

    Attributes:
        name: Name of the host.
        folder: Its `/opt/ml`.
        log: File with the job's output.
        process: The job's process.
        sigterm_time: Time of the first SIGTERM, on the monotonic clock.
        was_killed: Whether the job still ran when the machine was lost or ended by the platform.
    """

    def __init__(self, job: TrainingJob, options: MachineOptions) -> None:
        """Lay out the folder, restore the checkpoints and start the job.

        Args:
            job: The job from the view of this host.
            options: Surroundings of the machine.
        """
        self.name = job.request.resources.current_host
        self.folder = lay_out(options.root, job.request, None if job.container is None else CONTAINER_ROOT)
        self.log = options.log.path
        self.sigterm_time: float | None = None
        self.was_killed = False
        self._is_settled = False
        self._agent: SyncAgent | None = None
        if job.container is None:
            environment = job_environment(job.request, self.folder)
            command = _delayed(job.command, job.hosts.start_delays.get(self.name, 0.0))
            program = Program(command, environment, job.working_folder or self.folder.root, enter=options.enter)
        else:
            program = job.container.program(job.request, self.folder, job.command)
        if job.request.checkpoint_path is not None:
            restore(job.storage.checkpoints, self.folder.checkpoints)
            self._agent = SyncAgent(self.folder.checkpoints, job.storage.checkpoints, job.sync)
        self._feeders = feed_pipes(self.folder, job.request)
        try:
            self.process = JobProcess(program, options.log, options.watch)
        except OSError:
            self._kill_helpers()
            raise

    def send_sigterm(self) -> None:
        """Send SIGTERM to the job's first process."""
        self.sigterm_time = self.sigterm_time or time.monotonic()
        self.process.terminate()

    def settle(self) -> bool:
        """Once the first process has ended, end all others, as with a container; return whether it has ended."""
        if not self._is_settled and self.process.wait(0.0):
            self.process.destroy()
            self._is_settled = True
        return self._is_settled

    def finish(self, deadline: float | None = None) -> None:
        """Finish after the job has ended by itself: end remaining processes and upload all files.

        Args:
            deadline: Time on the monotonic clock at which the machine is lost; `None` for never.
        """
        self.process.destroy()
        if self._agent is not None:
            self._agent.finish(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def destroy(self) -> None:
        """Lose the machine: kill agent and job immediately."""
        self._kill_helpers()
        self.was_killed = self.was_killed or not self.process.wait(0.0)
        self.process.destroy()

    def _kill_helpers(self) -> None:
        for feeder in self._feeders:
            feeder.kill()
        if self._agent is not None:
            self._agent.kill()


def _delayed(command: tuple[str, ...], seconds: float) -> tuple[str, ...]:
    """Return a command that starts after a delay, which may be infinite."""
    if not seconds:
        return command
    duration = "infinity" if math.isinf(seconds) else f"{seconds:.3f}"
    return ("sh", "-c", 'sleep "$0" && exec "$@"', duration, *command)
