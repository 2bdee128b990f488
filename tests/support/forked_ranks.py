"""Jobs in several processes that are forked, which costs a tenth of a new process, and ended as a launcher would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator import JobFolder, TrainingRequest, lay_out
from sagemaker_simulator.configuration import DEFAULT_CHECKPOINT_PATH
from sagemaker_simulator.environment import job_environment
from tests.interruptions.starts import Zygote, handles_sigterm, has_exited

MAX_SECONDS = 120.0
"""Generous limit for the end of all ranks that are not ended by a signal."""
KILL_SECONDS = 30.0
"""Time from SIGTERM to SIGKILL after one of the ranks has failed, that of torch's elastic launcher."""
UNNOTICED_SECONDS = 3.0
"""The same if the log has no line yet: until then a rank waits for the others without noticing that one has ended."""
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, by rank.

    Attributes:
        processes: their ids.
        logs: their outputs.
        started: time of the start.
    """

    zygote: Zygote
    folder: JobFolder
    processes: tuple[int, ...]
    logs: tuple[Path, ...]
    started: float

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def text(self) -> str:
        """The log of the main process; empty until the process has opened it."""
        return self.logs[0].read_text("utf-8", errors="replace") if self.logs[0].exists() else ""

    def send(self, signal_number: signal.Signals, ranks: set[int] | None = None) -> None:
        """Send a signal to some ranks, or to all."""
        for rank in set(range(len(self.processes))) if ranks is None else ranks:
            if not has_exited(self.processes[rank]):
                with suppress(ProcessLookupError):
                    os.kill(self.processes[rank], signal_number)

    def ended(self) -> list[int]:
        """Ranks that have ended."""
        return [rank for rank, process in enumerate(self.processes) if has_exited(process)]

    def handle_sigterm(self, ranks: set[int]) -> bool:
        """Whether ranks have installed their handler of SIGTERM; the agent of a host sends the signal only then."""
        return all(handles_sigterm(self.processes[rank]) for rank in ranks)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return whether it became true before a process ended."""
        while not condition():
            if self.ended():
                return False
            time.sleep(POLL_SECONDS)
        return True

    def wait(self, seconds: float) -> list[int]:
        """Wait for the end of all processes, to which no launcher sends signals; return their exit codes."""
        deadline = time.monotonic() + seconds
        while len(self.ended()) < len(self.processes):
            assert time.monotonic() < deadline, [log.read_text("utf-8") for log in self.logs]
            time.sleep(POLL_SECONDS)
        return [self.zygote.wait(process) for process in self.processes]

    def end(self) -> list[int]:
        """Wait for the end of all processes; return their exit codes."""
        codes: dict[int, int] = {}
        deadline, failed = time.monotonic() + MAX_SECONDS, False
        while len(codes) < len(self.processes):
            for rank in set(self.ended()) - codes.keys():
                codes[rank] = self.zygote.wait(self.processes[rank])
                if codes[rank] and not failed:
                    self.send(signal.SIGTERM)
                    seconds = KILL_SECONDS if self.text() else UNNOTICED_SECONDS
                    deadline, failed = time.monotonic() + seconds, True
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                if not failed:
                    raise AssertionError(f"{len(codes)} of {len(self.processes)} ranks have ended:\n{self.text()}")
            time.sleep(POLL_SECONDS)
        return [codes[rank] for rank in range(len(self.processes))]


def start_ranks(zygote: Zygote, request: TrainingRequest, root: Path, count: int, hosts: int = 1) -> Ranks:
    """Start a job in `root`, where it finds the checkpoints of earlier starts.

    The ranks are those of one host, or believe to be on several hosts.
    """
    folder = JobFolder(root, request.checkpoint_path or DEFAULT_CHECKPOINT_PATH)
    kept = root.with_name(f"{root.name}-checkpoints")
    if folder.checkpoints.exists():
        folder.checkpoints.rename(kept)
    shutil.rmtree(root, ignore_errors=True)
    folder = lay_out(root, request)
    if kept.exists():
        folder.checkpoints.rmdir()
        kept.rename(folder.checkpoints)
    return fork_ranks(zygote, folder, job_environment(request, folder), count, hosts)


def fork_ranks(zygote: Zygote, folder: JobFolder, environment: Mapping[str, str], count: int, hosts: int = 1) -> Ranks:
    """Start the processes of a job in a prepared folder, with the variables of torch's launchers."""
    root = folder.root
    scratch = root.with_name(f"{root.name}-tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    logs = tuple(root.with_name(f"{root.name}-rank-{rank}.log") for rank in range(count))
    for log in logs:
        log.unlink(missing_ok=True)  # of an earlier start
    launched = {
        "TMPDIR": str(scratch),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count // hosts),
    }
    common = {**environment, **launched}
    processes = tuple(
        zygote.fork(common | {"RANK": str(rank), "LOCAL_RANK": str(rank % (count // hosts))}, log)
        for rank, log in enumerate(logs)
    )
    return Ranks(zygote, folder, processes, logs, time.monotonic())


def train_in_ranks(zygote: Zygote, request: TrainingRequest, root: Path, count: int, hosts: int = 1) -> JobFolder:
    """Run a job to its end, which must be a success."""
    ranks = start_ranks(zygote, request, root, count, hosts)
    codes = ranks.end()
    assert codes == [0] * count, json.dumps([log.read_text("utf-8") for log in ranks.logs], indent=1)
    return ranks.folder


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
