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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from finetune.errors import PlatformError
from finetune.launch.causes import first_failure
from finetune.launch.hangs import EndlessComputations, Hang, HangDetector, kill
from finetune.launch.rank_files import AGENT, FOLDER, RankFailure, RankFiles
from finetune.runtime.computations import read_computation
from finetune.sagemaker.interruption import Interruption

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_POLLS_PER_HANG_CHECK = 10
_PORT_ATTEMPTS = 5
_RENDEZVOUS_SECONDS = 300
_KILL_SECONDS = 5.0
"""Time from SIGTERM to SIGKILL after a failure on another host: the processes have nothing left to save."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The hosts of a job, and the place of this one among them.

    Attributes:
        count: Number of hosts.
        index: Index of this host.
        first_rank: Rank of the first process of this host.
        address: Address of the first host.
        port: Port of the first host on which the processes find each other; `None` for any free port, if it is the only
            host.
    """

    count: int = 1
    index: int = 0
    first_rank: int = 0
    address: str = "127.0.0.1"
    port: int | None = None


ONE_HOST = Nodes()


def run_processes(
    processes: int,
    interruption: Interruption,
    nodes: Nodes = ONE_HOST,
    *,
    on_stop: Callable[[], None] = lambda: None,
    failed: threading.Event | None = None,
) -> RankFailure | None:
    """Run the processes of this host, and return the failure among them that occurred first, if any.

    Args:
        processes: Number of processes on this host.
        interruption: Stop request of the job, which is passed on to all processes.
        nodes: The hosts of the job.
        on_stop: Called once when the job is asked to stop.
        failed: Set when the job has failed on any host, so that the processes of this one are ended.

    Raises:
        PlatformError: The processes cannot be started.
    """
    if interruption.requested():
        logger.info("Stopped before the processes were started: there is no model to export.")
        return None
    # The launcher reports signals and exit codes; the agent reports their causes.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="finetune-ranks-") as folder:
        files = RankFiles(Path(folder))
        os.environ |= {FOLDER: folder, AGENT: str(os.getpid())}
        try:
            with _supervised(files, interruption, on_stop, failed or threading.Event()) as hung:
                ended = _launch(processes, nodes, folder)
        finally:
            del os.environ[FOLDER], os.environ[AGENT]
        ranks = set(range(nodes.first_rank, nodes.first_rank + processes))
        unfinished = ranks - files.finished() - ended.keys()
        if ended or unfinished:
            first = first_failure(list(files.failures()), ended, hung, unfinished)
            return replace(first, is_consequence=first.is_consequence or (failed is not None and failed.is_set()))
    return None


def _launch(processes: int, nodes: Nodes, folder: str) -> dict[int, ProcessFailure]:
    """Run the processes to their end; return how they ended, by rank, if not with exit code 0.

    Raises:
        PlatformError: No port is free on which they find each other.
    """
    for _ in range(_PORT_ATTEMPTS):
        config = LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=processes,
            run_id="finetune",
            rdzv_backend="static",
            # Another process may take the free port before the launcher listens on it.
            rdzv_endpoint=f"{nodes.address}:{nodes.port or _free_port()}",
            rdzv_configs={"rank": nodes.index, "timeout": _RENDEZVOUS_SECONDS},
            max_restarts=0,
            # Only shown in logs; by default the launcher resolves the name of the host, which may take seconds.
            local_addr=nodes.address,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # A signal that nobody sends: the launcher must not handle those that stop a job.
            signals_to_handle="SIGUSR2",
        )
        try:
            elastic_launch(config, sys.executable)("-m", "finetune")
        except ChildFailedError as error:
            return error.failures
        except DistNetworkError as error:
            cause = str(error).partition("\n")[0]
            if nodes.port is not None:
                raise PlatformError(
                    f"The processes of the job cannot find each other on port {nodes.port} of {nodes.address}: {cause}"
                ) from error
            logger.warning("The processes of the job cannot be connected: %s", cause)
            continue
        return {}
    raise PlatformError(f"{_PORT_ATTEMPTS} ports of 127.0.0.1 that were free could not be used to start processes.")


@contextmanager
def _supervised(
    files: RankFiles, interruption: Interruption, on_stop: Callable[[], None], failed: threading.Event
) -> Iterator[dict[int, Hang]]:
    """While the block runs, pass a stop request on to all processes, also to later ones, and kill those that hang.

    If the job has failed on another host, the processes get SIGTERM, and SIGKILL a few seconds later.

    Yields:
        By rank, the processes that were killed because they hung.
    """
    ended = threading.Event()
    hung: dict[int, Hang] = {}

    def supervise() -> None:
        detector, endless = HangDetector(), EndlessComputations()
        stopped, killed, polls, announced = set[int](), set[int](), 0, False
        kill_at = float("inf")
        while not ended.wait(_POLL_SECONDS):
            processes = files.processes()
            if interruption.requested() and not announced:
                announced = True
                on_stop()
            if failed.is_set():
                kill_at = min(kill_at, time.monotonic() + _KILL_SECONDS)
            if interruption.requested() or failed.is_set():
                _send(signal.SIGTERM, set(processes.values()), stopped)
            if time.monotonic() > kill_at:
                _send(signal.SIGKILL, set(processes.values()), killed)
            polls += 1
            if polls % _POLLS_PER_HANG_CHECK:
                continue
            computations = {rank: read_computation(files.computations_of(rank)) for rank in processes}
            for rank, hang in {**endless.check(computations, processes), **detector.check(processes)}.items():
                hung[rank] = hang
                kill(hang)

    thread = threading.Thread(target=supervise, name="process-supervision", daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        ended.set()
        thread.join()


def _send(number: signal.Signals, processes: set[int], done: set[int]) -> None:
    """Send a signal once to each process, and add those that got it to `done`."""
    for process in processes - done:
        done.add(process)
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
