"""Jobs that run in processes of their own, one for each device, and can be sent signals while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator import Channel, JobFolder, TrainingRequest, lay_out
from tests.interruptions.starts import has_exited
from tests.support.whole_jobs import ENVIRONMENT, ROOT, FinishedJob

MAX_SECONDS = 60.0
"""Generous limit for the end of a job after a failure; it catches jobs that never end."""
COMMAND = (sys.executable, "-m", "finetune")


@dataclass(frozen=True)
class RunningJob:
    """A job that runs in a process, which starts further processes.

    Attributes:
        process: the process that was started, the agent of the host.
        log: file with the output of all processes.
    """

    process: subprocess.Popen[bytes]
    folder: JobFolder
    log: Path

    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds while the job runs."""
        deadline = time.monotonic() + 2 * MAX_SECONDS
        while not condition():
            assert self.process.poll() is None, self.text()
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
        return dict(sorted(_ranks(self.process.pid)))

    def send(self, signal_number: signal.Signals, rank: int | None = None) -> None:
        """Send a signal to a rank, or to the agent."""
        os.kill(self.process.pid if rank is None else self.ranks()[rank], signal_number)

    def end(self) -> FinishedJob:
        """Wait for the end, which must come in time and leave no process."""
        ranks = list(self.ranks().values())
        try:
            self.process.wait(MAX_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job does not end:\n{self.text()}") from None
        wait_until_gone(ranks)
        return FinishedJob(self.process.returncode, self.text(), self.folder)


@contextmanager
def running_job(
    root: Path,
    channels: Mapping[str, Path],
    hyperparameters: Mapping[str, str],
    *,
    command: Sequence[str] = COMMAND,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningJob]:
    """Start a job on `/opt/ml` in `root`, whose checkpoints of earlier starts it finds."""
    request = TrainingRequest(
        channels=tuple(Channel(name, source) for name, source in channels.items()), hyperparameters=hyperparameters
    )
    folder = lay_out(root / "opt-ml", request)
    variables = {
        "PATH": os.environ["PATH"],
        **ENVIRONMENT,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "SAGEMAKER_BASE_DIR": str(folder.root),
        **(environment or {}),
    }
    log = root / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables, cwd=root, stdout=file, stderr=subprocess.STDOUT)
    job = RunningJob(process, folder, log)
    try:
        yield job
    finally:
        for pid in (process.pid, *job.ranks().values()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until none of the processes is left, or only as a zombie."""
    deadline = time.monotonic() + 10.0
    while left := [pid for pid in pids if not has_exited(pid)]:
        assert time.monotonic() < deadline, f"processes {left} outlive the job"
        time.sleep(0.01)


def _ranks(parent: int) -> Iterator[tuple[int, int]]:
    for file in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):
            for child in file.read_text("utf-8").split():
                with suppress(OSError):
                    variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                    for variable in variables:
                        if variable.startswith(b"RANK="):
                            yield int(variable[5:]), int(child)
