"""Jobs with an agent that starts one process for each device; their processes can be sent signals while they run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator import JobFolder, TrainingRequest, lay_out
from sagemaker_simulator.environment import job_environment
from tests.interruptions.starts import Zygote, has_exited
from tests.support.whole_jobs import ROOT, FinishedJob

MAX_SECONDS = 60.0
"""Generous limit for the end of a job after a failure; it catches jobs that never end."""
FAULTS = Path(__file__).with_name("faults")
PYTHON_PATH = os.pathsep.join(str(path) for path in (FAULTS, ROOT / "src", ROOT))


@dataclass(frozen=True)
class RunningJob:
    """A job that runs.

    Attributes:
        agent: process id of the agent.
        log: file with the output of all processes.
    """

    zygote: Zygote
    agent: int
    folder: JobFolder
    log: Path

    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds while the job runs."""
        deadline = time.monotonic() + 2 * MAX_SECONDS
        while not condition():
            assert not has_exited(self.agent), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def wait_for_line(self, beginning: str) -> None:
        """Wait until the log has a line with this beginning."""
        self.wait_for(lambda: f"\n{beginning}" in f"\n{self.text()}")

    def wait_for_ranks(self, count: int) -> dict[int, int]:
        """Wait until `count` processes were started; return their process ids by rank."""
        self.wait_for(lambda: len(self.ranks()) == count)
        return self.ranks()

    def ranks(self) -> dict[int, int]:
        """Process ids by rank."""
        return dict(_ranks(self.agent))

    def send(self, signal_number: signal.Signals, rank: int | None = None) -> None:
        """Send a signal to a rank, or to the agent."""
        os.kill(self.agent if rank is None else self.ranks()[rank], signal_number)

    def end(self) -> FinishedJob:
        """Wait for the end, which must come in time and leave no process."""
        processes = [self.agent, *self.ranks().values()]
        deadline = time.monotonic() + MAX_SECONDS
        while not has_exited(self.agent):
            assert time.monotonic() < deadline, f"the job does not end:\n{self.text()}"
            time.sleep(0.01)
        wait_until_gone(processes)
        return FinishedJob(self.zygote.wait(self.agent), self.text(), self.folder)


@contextmanager
def running_job(zygote: Zygote, request: TrainingRequest, root: Path) -> Iterator[RunningJob]:
    """Start a job in a new folder; end its processes with the block."""
    root.mkdir(exist_ok=True)
    folder = lay_out(root / "opt-ml", request)
    scratch = root / "tmp"
    scratch.mkdir()
    environment = {**job_environment(request, folder), "PYTHONPATH": PYTHON_PATH, "TMPDIR": str(scratch)}
    log = root / "log"
    log.touch()
    job = RunningJob(zygote, zygote.fork(environment, log), folder, log)
    processes: set[int] = set()
    try:
        yield job
    finally:
        processes |= {job.agent, *job.ranks().values()}
        for process in processes:
            if not has_exited(process):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def wait_until_gone(processes: Iterable[int], seconds: float = 10.0) -> None:
    """Wait until none of the processes is left, or only as a zombie."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if not has_exited(process)]:
        assert time.monotonic() < deadline, f"processes {left} outlive the job"
        time.sleep(0.01)


def _ranks(parent: int) -> Iterator[tuple[int, int]]:
    for file in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):
            for child in file.read_text("utf-8").split():
                variables = _environment(int(child))
                if "RANK" in variables:
                    yield int(variables["RANK"]), int(child)


def _environment(process: int) -> Mapping[str, str]:
    with suppress(OSError):
        entries = Path(f"/proc/{process}/environ").read_text("utf-8").split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {}
