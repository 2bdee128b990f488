"""The agent of a host: starts its processes by torch's elastic launcher, stops them in order, and names what failed.

The launcher's own handling of SIGTERM would kill the processes after 30 seconds, whether or not they have saved their
state (`PContext.close` in torch.distributed.elastic.multiprocessing.api). So the agent passes SIGTERM on, and the
launcher waits until the processes have ended by themselves.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from finetune.errors import PlatformError
from finetune.launch.rank_files import FOLDER, RankFailure, RankFiles
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.interruption import Interruption

_POLL_SECONDS = 0.1


def run_processes(processes: int, interruption: Interruption) -> Failure | None:
    """Run the job in several processes on this host, and return the failure that occurred first, if any.

    Args:
        processes: Number of processes.
        interruption: Stop request of the job, which is passed on to all processes.
    """
    # The launcher reports signals and exit codes; the agent reports their causes.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="finetune-ranks-") as folder:
        files = RankFiles(Path(folder))
        os.environ[FOLDER] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="finetune",
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{_free_port()}",
            rdzv_configs={"rank": 0},
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # A signal that nobody sends: the launcher must not handle those that stop a job.
            signals_to_handle="SIGUSR2",
        )
        with _stop_forwarded(files, interruption):
            try:
                elastic_launch(config, sys.executable)("-m", "finetune")
            except ChildFailedError as error:
                return first_failure(list(files.failures()), error.failures)
            finally:
                del os.environ[FOLDER]
    return None


def first_failure(reported: list[RankFailure], ended: Mapping[int, ProcessFailure]) -> Failure:
    """Return the failure that caused the others.

    Args:
        reported: Failures that the processes have written.
        ended: By rank, how processes ended that did not succeed.
    """
    causes = [failure for failure in reported if not failure.is_consequence]
    silent = set(ended) - {failure.rank for failure in reported}
    killed = [ended[rank] for rank in sorted(silent) if ended[rank].exitcode < 0]
    # The launcher ends the remaining processes by SIGTERM, and by SIGKILL if they do not react.
    first_killed = min(killed, key=lambda process: process.timestamp, default=None)
    if causes:
        first = min(causes, key=lambda failure: failure.time)
        if first_killed is None or first.time <= first_killed.timestamp:
            return first.failure
    if first_killed is not None:
        return _killed(first_killed)
    if reported:
        return min(reported, key=lambda failure: failure.time).failure
    rank, process = next(iter(ended.items()))
    return Failure(
        f"Process {rank} ended with exit code {process.exitcode} and without a message: see its last lines in the log.",
        PlatformError.exit_code,
        expected=False,
    )


def _killed(process: ProcessFailure) -> Failure:
    name = signal.Signals(-process.exitcode).name
    reason = f"Process {process.local_rank} was killed by {name}"
    if name == "SIGKILL":
        reason += ", often because the machine ran out of memory: use a smaller batch_size or a larger instance"
    return Failure(f"{reason}.", PlatformError.exit_code, expected=True)


@contextmanager
def _stop_forwarded(files: RankFiles, interruption: Interruption) -> Iterator[None]:
    """While the block runs, pass a stop request on to all processes, also to those that start later."""
    ended = threading.Event()

    def forward() -> None:
        stopped: set[int] = set()
        while not ended.wait(_POLL_SECONDS):
            if not interruption.requested():
                continue
            for process in files.process_ids() - stopped:
                stopped.add(process)
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)

    thread = threading.Thread(target=forward, name="stop-forwarding", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
