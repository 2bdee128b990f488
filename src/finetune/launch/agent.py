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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from finetune.errors import PlatformError
from finetune.launch.causes import first_failure
from finetune.launch.hangs import Hang, HangDetector, kill
from finetune.launch.rank_files import AGENT, FOLDER, RankFiles
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.interruption import Interruption

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_POLLS_PER_HANG_CHECK = 10
_PORT_ATTEMPTS = 5


def run_processes(processes: int, interruption: Interruption) -> Failure | None:
    """Run the job in several processes on this host, and return the failure that occurred first, if any.

    Args:
        processes: Number of processes.
        interruption: Stop request of the job, which is passed on to all processes.

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
            with _supervised(files, interruption) as hung:
                ended = _launch(processes, folder)
        finally:
            del os.environ[FOLDER], os.environ[AGENT]
        unfinished = set(range(processes)) - files.finished() - ended.keys()
        if ended or unfinished:
            return first_failure(list(files.failures()), ended, hung, unfinished)
    return None


def _launch(processes: int, folder: str) -> dict[int, ProcessFailure]:
    """Run the processes to their end; return how they ended, by rank, if not with exit code 0.

    Raises:
        PlatformError: No port is free on which they find each other.
    """
    for _ in range(_PORT_ATTEMPTS):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="finetune",
            rdzv_backend="static",
            # Another process may take the port before the launcher listens on it.
            rdzv_endpoint=f"127.0.0.1:{_free_port()}",
            rdzv_configs={"rank": 0},
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # A signal that nobody sends: the launcher must not handle those that stop a job.
            signals_to_handle="SIGUSR2",
        )
        try:
            elastic_launch(config, sys.executable)("-m", "finetune")
        except ChildFailedError as error:
            return error.failures
        except DistNetworkError as error:
            logger.warning("The processes of the job cannot be connected: %s", str(error).partition("\n")[0])
            continue
        return {}
    raise PlatformError(f"{_PORT_ATTEMPTS} ports of 127.0.0.1 that were free could not be used to start processes.")


@contextmanager
def _supervised(files: RankFiles, interruption: Interruption) -> Iterator[dict[int, Hang]]:
    """While the block runs, pass a stop request on to all processes, also to later ones, and kill those that hang.

    Yields:
        By rank, the processes that were killed because they hung.
    """
    ended = threading.Event()
    hung: dict[int, Hang] = {}

    def supervise() -> None:
        detector, stopped, polls = HangDetector(), set[int](), 0
        while not ended.wait(_POLL_SECONDS):
            processes = files.processes()
            if interruption.requested():
                for process in set(processes.values()) - stopped:
                    stopped.add(process)
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGTERM)
            polls += 1
            if polls % _POLLS_PER_HANG_CHECK:
                continue
            for rank, hang in detector.check(processes).items():
                hung[rank] = hang
                kill(hang)

    thread = threading.Thread(target=supervise, name="process-supervision", daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        ended.set()
        thread.join()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
