"""Entry point of `train`: runs the job and translates its result into the failure file and the exit code.

sagemaker-training imports this module and calls `main` in its own process. It reports several kinds of exceptions as
success (`SystemExit`, `KeyboardInterrupt`, an `OSError` without errno), so `main` raises only two kinds, which it
maps to the exit codes of `finetune.errors`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from finetune.errors import JobError, PlatformError, UserError
from finetune.job.request import Request, read_request
from finetune.launch.devices import is_launched, process_count
from finetune.launch.parent import end_with_parent
from finetune.launch.rank_files import AGENT, RankFiles
from finetune.messages import OWN_LOGGER, Lines, log_safely
from finetune.runtime.computations import note_computations
from finetune.runtime.memory import garbage_collection_disabled, set_variables, share_one_heap
from finetune.sagemaker.failure import (
    Failure,
    causes_of,
    clear_failure,
    failure_of,
    release_reserve,
    reserve_failure,
    write_failure,
)
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths

logger = logging.getLogger(__name__)

_LOST_PROCESS_ERRORS = ("ProcessLostError", "DistBackendError", "DistNetworkError")
"""Names of error types, because importing them takes seconds."""

CLEAR_LINE = "\r\x1b[K"


class JobFailedError(RuntimeError):
    """Passes the kind of failure to sagemaker-training, which exits with `errno`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.errno = failure.exit_code


def run() -> int:
    """Run the job of this container and return its exit code; failures are written and logged."""
    failure = _run()
    return 0 if failure is None else failure.exit_code


def main() -> None:
    """Run the job as sagemaker-training's framework module (`SAGEMAKER_TRAINING_MODULE=finetune.entry:main`).

    Raises:
        ClientError: user error, without a traceback in the log; exit code 1.
        JobFailedError: any other failure; its `errno` becomes the exit code.
    """
    failure = _run()
    if failure is not None:
        raise_for_toolkit(failure)


def _run() -> Failure | None:
    _log_to_stdout()
    set_variables()
    share_one_heap()
    paths = Paths.from_environment()
    if is_launched():
        return _run_rank(paths)
    clear_failure(paths)
    reserve_failure(paths)
    try:
        with Interruption() as interruption:
            return _run_request(read_request(paths), interruption, paths)
    except BaseException as error:  # noqa: BLE001  # the single place that maps failures to exit codes
        return _report_failure(paths, error)
    finally:
        release_reserve(paths)


def _run_request(request: Request, interruption: Interruption, paths: Paths) -> Failure | None:
    """Run the job in this process, or in one process for each device of all hosts; return the failure of the latter."""
    processes = process_count(request.spec.distributed.processes_per_host)
    # Importing torch takes seconds: do it only after the request has been checked.
    if processes == 1 and len(request.files.resources.hosts) == 1:
        with garbage_collection_disabled():
            from finetune.distributed.world import World
            from finetune.job.run import run_job

        run_job(request, interruption, World())
        return None
    with garbage_collection_disabled():
        from finetune.launch.hosts import run_on_hosts

    return run_on_hosts(request.files, processes, interruption, lambda failure: _write_and_log(paths, failure))


def _run_rank(paths: Paths) -> Failure | None:
    """Run the job in one of its processes, which a launcher started; the agent reports the failure, if there is one."""
    rank = int(os.environ["RANK"])
    files = RankFiles.from_environment()
    if rank > 0:
        logging.getLogger(OWN_LOGGER).setLevel(logging.ERROR)
    elif files is None:
        clear_failure(paths)
    try:
        with Interruption(ends_process=True) as interruption:
            if files is not None:
                files.announce(rank)
                end_with_parent(int(os.environ[AGENT]))
            request = read_request(paths)
            # Compiling takes minutes, whenever a batch has a new shape.
            if files is not None and not request.spec.run.compile:
                note_computations(files.computations_of(rank))
            with garbage_collection_disabled():
                from finetune.distributed.process_group import join_world
                from finetune.job.run import run_job

            with join_world() as world:
                run_job(request, interruption, world)
            if files is not None:
                files.finish(rank)
            return None
    except BaseException as error:  # noqa: BLE001  # every failure is reported
        is_consequence = _is_consequence(error)
        if is_consequence and not isinstance(error, JobError):
            error = PlatformError(f"Another process of the job has ended or cannot be reached: {error}")
        failure = failure_of(error, (paths.output, paths.model, paths.checkpoints, Path(tempfile.gettempdir())))
        if files is None:
            return _write_and_log(paths, failure)
        files.write_failure(rank, failure, is_consequence=is_consequence)
        return failure


def _is_consequence(error: BaseException) -> bool:
    """Whether a process failed because another one had ended, also if that error caused others.

    DistributedDataParallel communicates within forward and backward passes; gloo's errors have no type of their own.
    """
    return any(
        type(cause).__name__ in _LOST_PROCESS_ERRORS or (isinstance(cause, RuntimeError) and "/gloo/" in str(cause))
        for cause in causes_of(error)
    )


def _report_failure(paths: Paths, error: BaseException) -> Failure:
    """Write and log the cause of a failure."""
    failure = failure_of(error, (paths.output, paths.model, paths.checkpoints, Path(tempfile.gettempdir())))
    return _write_and_log(paths, failure)


def _write_and_log(paths: Paths, failure: Failure) -> Failure:
    """Write the cause of a failure to the failure file and to the log."""
    written = write_failure(paths, failure)
    logger.error("%s", Lines(failure.message))
    if not written:
        # Exit here: sagemaker-training would also fail to write the file, and exit with 0.
        logger.error("%s cannot be written.", paths.failure)
        logging.shutdown()
        os._exit(failure.exit_code)
    return failure


def raise_for_toolkit(failure: Failure) -> NoReturn:
    """Raise the exception that makes sagemaker-training exit with the failure's exit code, after the file is written.

    Raises:
        ClientError: user error, without a traceback in the log.
        JobFailedError: any other failure.
    """
    if failure.exit_code == UserError.exit_code and "sagemaker_training" in sys.modules:
        from sagemaker_training.errors import ClientError  # import inspects the machine

        raise ClientError(failure.message)
    raise JobFailedError(failure)


def _log_to_stdout() -> None:
    """Add a handler for the package's own lines: bare text, so that metric patterns match from the first character."""
    log_safely()
    ours = logging.getLogger(OWN_LOGGER)
    if ours.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LineFormatter(clears_line=sys.stdout.isatty()))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


class _LineFormatter(logging.Formatter):
    """Formats the bare message, prefixed with its level from WARNING on.

    Args:
        clears_line: whether to clear the current terminal line first, which may show a progress bar.
    """

    def __init__(self, *, clears_line: bool) -> None:
        super().__init__()
        self._prefix = CLEAR_LINE if clears_line else ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        level = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        return f"{self._prefix}{level}{text}"
