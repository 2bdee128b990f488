"""Runs a job in a child process, reports its log lines and progress, and stops it on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Protocol

from finetune.launch.devices import LAUNCHER_VARIABLES
from finetune.local.log_events import Event, LogFollower, parse_line
from finetune.local.run_folder import RunFolder, Status
from finetune.runtime.live_progress import VARIABLE, Progress, read_progress
from finetune.sagemaker.paths import BASE_FOLDER

_INTERVAL_SECONDS = 0.1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Listener(Protocol):
    """Receives the events of a running job."""

    def event(self, event: Event) -> None:
        """Receive a line of the log."""
        ...

    def progress(self, progress: Progress) -> None:
        """Receive the current progress, several times a second."""
        ...

    def stopping(self) -> None:
        """Note that the job was asked to stop."""
        ...


class SilentListener:
    """Ignores all events."""

    def event(self, event: Event) -> None:
        """Ignore a line of the log."""

    def progress(self, progress: Progress) -> None:
        """Ignore the progress."""

    def stopping(self) -> None:
        """Ignore a stop."""


@dataclass(slots=True)
class StopRequests:
    """Requests to stop a job; the first one stops it as the platform does, the second one kills it.

    Attributes:
        count: number of requests.
        discards: whether the first request kills the job, whose result is not needed.
    """

    count: int = 0
    discards: bool = field(default=False)

    def request(self) -> None:
        """Request the job to stop."""
        self.count += 1

    def discard(self) -> None:
        """Request the job to be killed."""
        self.discards, self.count = True, self.count + 1


def run_job(run: RunFolder, listener: Listener, requests: StopRequests | None = None) -> Status:
    """Start or resume the job in a folder, and wait for its end.

    SIGINT, SIGTERM and SIGHUP of this process are requests to stop the job; its log and the record of the run are
    complete when the function returns.

    Args:
        run: the job.
        listener: receives its events.
        requests: requests to stop it by other means than signals.

    Raises:
        UserError: the job is running in another process.
    """
    requests = requests or StopRequests()
    with run.locked() as lock, run.log.open("ab") as log:
        run.progress.unlink(missing_ok=True)
        run.note_start(datetime.now().astimezone())
        follower, started = LogFollower(run.log), time.monotonic()
        with _signals(requests.request):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "finetune"],
                env=job_environment(run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this process
                pass_fds=(lock,),
            )
            try:
                _watch(process, run, follower, listener, requests)
            finally:
                if process.poll() is None:
                    _kill(process)
                follower.close()
                run.progress.unlink(missing_ok=True)
                stopped = requests.count > 0 and process.returncode < 0  # before the job handled signals, or killed
                status = run.note_end(time.monotonic() - started, process.returncode, stopped=stopped)
    if status == "finished":
        run.remove_checkpoints()
    return status


def job_environment(run: RunFolder, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a job's process: those of this process, without those of a launcher."""
    variables = {name: value for name, value in environment.items() if name not in LAUNCHER_VARIABLES}
    return variables | {
        BASE_FOLDER: str(run.root),
        "TRAINING_JOB_NAME": run.name,
        VARIABLE: str(run.progress),
    }


def _watch(
    process: subprocess.Popen[bytes],
    run: RunFolder,
    follower: LogFollower,
    listener: Listener,
    requests: StopRequests,
) -> None:
    handled, shown = 0, None
    while process.poll() is None:
        for line in follower.lines():
            listener.event(parse_line(line))
        progress = read_progress(run.progress)
        if progress is not None and progress != shown:
            listener.progress(progress)
            shown = progress
        if requests.count > handled:
            if handled or requests.discards:
                _kill(process)
            else:
                process.send_signal(signal.SIGTERM)
                listener.stopping()
            handled = requests.count
        with suppress(subprocess.TimeoutExpired):
            process.wait(_INTERVAL_SECONDS)
    for line in follower.lines(to_end=True):
        listener.event(parse_line(line))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a job with all of its processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call a function on each signal that asks to stop; other threads than the main one cannot handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        handle()

    handled = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    previous = {number: signal.signal(number, note) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
