"""Starts of a job on new machines, killed or stopped at chosen moments, with a sync agent running alongside."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sagemaker_simulator import JobFolder, SyncAgent, TrainingJob, feed_pipes, lay_out, restore
from sagemaker_simulator.environment import job_environment

MAX_SECONDS = 120.0


@dataclass(frozen=True)
class JobView:
    """A snapshot of a running job, seen from outside.

    Attributes:
        pid: of its process.
        seconds: since its start.
    """

    pid: int
    folder: JobFolder
    log: Path
    seconds: float

    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""

    def handles_sigterm(self) -> bool:
        """Whether its SIGTERM handler is installed."""
        return handles_sigterm(self.pid)

    def checkpoints(self, pattern: str) -> int:
        """Files with a matching name in the checkpoint folders."""
        return len(self._files(pattern))

    def uploaded(self) -> int:
        """The number of checkpoints of which the agent has uploaded every file."""
        unmarked = {Path(file).parent for file in self._files("*") if not self._marked(file)}
        return len({Path(file).parent for file in self._files("manifest.json.sagemaker-uploaded")} - unmarked)

    def _marked(self, file: str) -> bool:
        return ".sagemaker-" in file or Path(f"{file}.sagemaker-uploaded").exists()

    def _files(self, pattern: str) -> list[str]:
        folder = glob.escape(str(self.folder.checkpoints))
        return glob.glob(f"{folder}/step-*/{pattern}")  # noqa: PTH207 - Path.glob raises if a folder disappears


@dataclass(frozen=True)
class Disturbance:
    """A disturbance of a start.

    Attributes:
        name: for the report of a failed test.
        when: condition, polled every millisecond.
        seconds: delay after that.
        signals: sent in sequence; after SIGKILL the machine is gone.
        interval_seconds: delay between two signals.
    """

    name: str
    when: Callable[[JobView], bool]
    seconds: float = 0.0
    signals: tuple[signal.Signals, ...] = (signal.SIGKILL,)
    interval_seconds: float = 0.05


@dataclass(frozen=True)
class StartResult:
    """A finished start.

    Attributes:
        exit_code: negative after a signal.
        disturbed: whether the disturbance came before the end.
        seconds_after_signal: from the first signal to the end, 0 without one.
    """

    exit_code: int
    log: str
    disturbed: bool
    seconds_after_signal: float
    folder: JobFolder

    def epoch_lines(self) -> list[str]:
        return [line for line in self.log.splitlines() if line.startswith("epoch=")]


@dataclass
class Zygote:
    """The process that jobs are forked from; see `zygote.py`."""

    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
        # One thread: settings read at import apply to every fork, and threads do not survive a fork.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        assert self.read() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(MAX_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def fork(self, environment: dict[str, str], log: Path, program: tuple[str, ...] = ()) -> int:
        """Start a job, or a program with arguments as by `python -c`; return the id of the process."""
        return self._order({"environment": environment, "log": str(log), "program": program})

    def wait(self, process: int) -> int:
        """Wait for the end of a process; return its exit code."""
        return self._order({"process": process})

    def _order(self, order: dict[str, object]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.read())

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def handles_sigterm(pid: int) -> bool:
    """Whether the SIGTERM handler of a process is installed."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def has_exited(pid: int) -> bool:
    """Whether a process has ended: it is gone, or a zombie that its parent is about to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start(zygote: Zygote, job: TrainingJob, root: Path, disturbance: Disturbance | None = None) -> StartResult:
    """Start a job on an empty `/opt/ml` with the checkpoints that reached S3, and follow it to its end."""
    shutil.rmtree(root, ignore_errors=True)
    folder = lay_out(root, job.request)
    agent = None
    if job.request.checkpoint_path is not None:
        restore(job.storage.checkpoints, folder.checkpoints)
        agent = SyncAgent(folder.checkpoints, job.storage.checkpoints, job.sync)
    feeders = feed_pipes(folder, job.request)
    try:
        return follow(zygote, job, folder, agent, disturbance)
    finally:
        for feeder in feeders:
            feeder.kill()


def follow(
    zygote: Zygote, job: TrainingJob, folder: JobFolder, agent: SyncAgent | None, disturbance: Disturbance | None
) -> StartResult:
    """Start a job in a prepared folder."""
    scratch = folder.root.with_name(f"{folder.root.name}-tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    environment = {**job_environment(job.request, folder), "TMPDIR": str(scratch)}
    log = job.storage.next_log()
    log.touch()  # a kill may come before the job itself has opened it
    pid = zygote.fork(environment, log)
    signal_time = 0.0
    try:
        if disturbance is not None and _wait_for_condition(disturbance, pid, folder, log):
            signal_time = time.monotonic()
            _send(disturbance, pid, agent)
        deadline = time.monotonic() + MAX_SECONDS
        while not has_exited(pid):
            assert time.monotonic() < deadline, f"the job does not end:\n{log.read_text('utf-8')}"
            time.sleep(0.001)
    finally:
        if not has_exited(pid):
            os.kill(pid, signal.SIGKILL)
        end_time = time.monotonic()
        exit_code = zygote.wait(pid)
        if agent is not None:
            agent.finish()
    seconds = end_time - signal_time if signal_time else 0.0
    killed = disturbance is not None and signal.SIGKILL in disturbance.signals
    disturbed = exit_code == -signal.SIGKILL if killed else signal_time > 0  # it may have ended at the last moment
    return StartResult(exit_code, log.read_text("utf-8", errors="replace"), disturbed, seconds, folder)


def _wait_for_condition(disturbance: Disturbance, pid: int, folder: JobFolder, log: Path) -> bool:
    """Wait for the moment; return whether it came while the job ran."""
    start_time = time.monotonic()
    while not disturbance.when(JobView(pid, folder, log, time.monotonic() - start_time)):
        if has_exited(pid):
            return False
        time.sleep(0.001)
    time.sleep(disturbance.seconds)
    return not has_exited(pid)


def _send(disturbance: Disturbance, pid: int, agent: SyncAgent | None) -> None:
    for number, signal_number in enumerate(disturbance.signals):
        if number:
            time.sleep(disturbance.interval_seconds)
        if signal_number is signal.SIGKILL and agent is not None:
            agent.kill()
        if not has_exited(pid):
            os.kill(pid, signal_number)


def with_changes(job: TrainingJob, **hyperparameters: object) -> TrainingJob:
    """The same job with other hyperparameters; `None` removes one."""
    values = dict(job.request.hyperparameters) | {name: str(value) for name, value in hyperparameters.items()}
    values = {name: value for name, value in values.items() if hyperparameters.get(name, "") is not None}
    return replace(job, request=replace(job.request, hyperparameters=values))
