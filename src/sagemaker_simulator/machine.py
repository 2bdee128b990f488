"""Simulated machine: the job's process and the sync agent, with a common lifetime."""

from __future__ import annotations

import time
from pathlib import Path

from sagemaker_simulator.container import CONTAINER_ROOT
from sagemaker_simulator.environment import job_environment
from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.layout import feed_pipes, lay_out
from sagemaker_simulator.log import LogOptions
from sagemaker_simulator.plan import StopRequest, TrainingJob
from sagemaker_simulator.process import JobProcess, Program
from sagemaker_simulator.sync_agent import SyncAgent, restore

_POLL_SECONDS = 0.005


class Machine:
    """A new `/opt/ml` with the job running on it.

    Attributes:
        folder: Its `/opt/ml`.
        log: File with the job's output.
        process: The job's process.
        sigterm_time: Time of the first SIGTERM, on the monotonic clock.
    """

    def __init__(self, job: TrainingJob, root: Path, watch: tuple[str, int] | None) -> None:
        """Lay out `root`, restore the checkpoints and start the job."""
        self.folder = lay_out(root, job.request, None if job.container is None else CONTAINER_ROOT)
        self.log = job.storage.next_log()
        self.sigterm_time: float | None = None
        self._agent: SyncAgent | None = None
        if job.container is None:
            environment = job_environment(job.request, self.folder)
            program = Program(job.command, environment, job.working_folder or self.folder.root)
        else:
            program = job.container.program(job.request, self.folder, job.command)
        if job.request.checkpoint_path is not None:
            restore(job.storage.checkpoints, self.folder.checkpoints)
            self._agent = SyncAgent(self.folder.checkpoints, job.storage.checkpoints, job.sync)
        self._feeders = feed_pipes(self.folder, job.request)
        try:
            self.process = JobProcess(program, LogOptions(self.log, job.echo), watch)
        except OSError:
            self._kill_helpers()
            raise

    def wait(self, interruption: Interruption | None, stop: StopRequest | None) -> Interruption | None:
        """Wait until the job ends by itself, or until an interruption is due, which is returned."""
        due = None
        while not self.process.wait(_POLL_SECONDS):
            if stop is not None and stop.submitted:
                return stop.interruption()
            if interruption is None:
                continue
            if due is None and (interruption.moment.pattern is None or self.process.log.matched.is_set()):
                start = self.process.started if interruption.moment.pattern is None else time.monotonic()
                due = start + interruption.moment.seconds
            if due is not None and self._is_due(due):
                return interruption
        return None

    def end(self) -> None:
        """Finish after the job has ended by itself: end remaining processes and upload all files."""
        self.process.destroy()
        if self._agent is not None:
            self._agent.finish()

    def interrupt(self, interruption: Interruption) -> None:
        """Apply the interruption."""
        if interruption.kind == "kill":
            self.destroy()
            return
        deadline = time.monotonic() + interruption.grace_seconds
        self._send_sigterm()
        if interruption.kind == "reclaim_twice" and not self.process.wait(interruption.repeat_seconds):
            self._send_sigterm()
        has_ended = self.process.wait(max(0.0, deadline - time.monotonic()))
        if interruption.kind == "stop":
            self.end()
        elif has_ended:
            self.process.destroy()
            if self._agent is not None:
                self._agent.finish(max(0.0, deadline - time.monotonic()))
        self.destroy()

    def destroy(self) -> None:
        """Lose the machine: kill agent and job immediately."""
        self._kill_helpers()
        self.process.destroy()

    def _is_due(self, due: float) -> bool:
        """Wait until `due` if it is close; return whether it is reached with the job still running."""
        remaining = due - time.monotonic()
        return remaining <= _POLL_SECONDS and not self.process.wait(max(0.0, remaining))

    def _send_sigterm(self) -> None:
        self.sigterm_time = self.sigterm_time or time.monotonic()
        self.process.terminate()

    def _kill_helpers(self) -> None:
        for feeder in self._feeders:
            feeder.kill()
        if self._agent is not None:
            self._agent.kill()
