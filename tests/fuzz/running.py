"""Runs the job for the fuzz suite: whole evaluation jobs, and jobs up to the first step with their records."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

from finetune import entry
from finetune.data.formats.named_fields import DecodedRecord
from finetune.data.pipe.source import RecordSource
from finetune.distributed.world import World
from finetune.job.prepare import PreparedJob, prepare
from finetune.job.request import read_request
from finetune.sagemaker.failure import failure_of
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, JobFolder, PipeSource, TrainingRequest, lay_out
from sagemaker_simulator.object_stream import epoch_bytes
from tests.fuzz.oracle import Run
from tests.support.whole_jobs import FinishedJob, build_request, run_request

Predictions = list[dict[str, float]]
"""Probability by class name for each record, in channel order."""

_SHARED: list[tempfile.TemporaryDirectory[str]] = []
_EPOCHS = 3
"""Passes over a channel in Pipe mode: one to count its records, one to read them, and one spare."""


@contextlib.contextmanager
def example_folder() -> Iterator[Path]:
    """A temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


def shared_folder() -> Path:
    """A folder for data shared by several examples, removed when the process ends."""
    _SHARED.append(tempfile.TemporaryDirectory(prefix="fuzz-base-"))
    return Path(_SHARED[-1].name)


@contextlib.contextmanager
def production_warnings() -> Iterator[None]:
    """Send Python's warnings to stderr as in production; in tests they would become errors, and false bugs."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def evaluate(root: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str] | None = None) -> Run:
    """Run a whole job with `strategy=evaluate`; its value is the `Predictions` to the channel `test`."""
    result = run_whole_job(root, channels, {"strategy": "evaluate", **(hyperparameters or {})})
    return Run(
        result.exit_code, result.failure, result.log, read_predictions(result) if result.exit_code == 0 else None
    )


def run_whole_job(root: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> FinishedJob:
    """Run a whole job within this process, in float32, as the libraries compute."""
    request = build_request(channels, {"precision": "fp32", "workers": "0", **hyperparameters})
    with production_warnings():
        return run_request(lay_out(root / "opt-ml", request))


def read_predictions(result: FinishedJob) -> Predictions:
    """The probabilities in the predictions file."""
    prefix = "probability:"
    return [
        {name.removeprefix(prefix): float(value) for name, value in row.items() if name.startswith(prefix)}
        for row in result.predictions("test")
    ]


def read_records(
    root: Path,
    channels: Sequence[Channel],
    hyperparameters: Mapping[str, str],
    inspect: Callable[[PreparedJob], object],
) -> Run:
    """Run a job up to its first step; its value is the result of `inspect` on the prepared job.

    Channels in Pipe mode are fed in the background, with the same data in each epoch.
    """
    request = TrainingRequest(
        channels=tuple(channels), hyperparameters={"workers": "0", **hyperparameters}, checkpoint_path=None
    )
    folder = lay_out(root / "opt-ml", request)
    log = io.StringIO()
    with (
        _capture_log(log),
        production_warnings(),
        tempfile.TemporaryDirectory() as scratch,
        _feed_pipes(folder, channels),
    ):
        code, failure, value = _prepare_job(folder, Path(scratch), inspect)
    return Run(code, failure, log.getvalue(), value)


def decoded_records(job: PreparedJob, source: RecordSource) -> list[DecodedRecord]:
    """The records of the next epoch of a channel in Pipe mode; undecodable ones count as bad records."""
    records = []
    for record in source.read_next():
        try:
            records.append(record.decode())
        except ValueError as error:
            job.loaders.bad_records[source.channel].note(f"record {record.number}", str(error))
    return records


@contextlib.contextmanager
def _feed_pipes(folder: JobFolder, channels: Sequence[Channel]) -> Iterator[None]:
    pipes = [(channel, folder.data / f"{channel.name}_") for channel in channels if channel.pipe is not None]
    for _, path in pipes:
        for epoch in range(_EPOCHS):
            os.mkfifo(f"{path}{epoch}")

    def feed(channel: Channel, path: Path) -> None:
        for epoch in range(_EPOCHS):
            with contextlib.suppress(BrokenPipeError), Path(f"{path}{epoch}").open("wb") as pipe:
                pipe.writelines(epoch_bytes(channel.source, channel.pipe or PipeSource(), epoch))

    feeders = [threading.Thread(target=feed, args=arguments, daemon=True) for arguments in pipes]
    for feeder in feeders:
        feeder.start()
    try:
        yield
    finally:
        _release(feeders, [f"{path}{epoch}" for _, path in pipes for epoch in range(_EPOCHS)])


def _release(feeders: Sequence[threading.Thread], pipes: Sequence[str]) -> None:
    """Open and close unread pipes, so that no feeder thread waits for a reader forever."""
    while any(feeder.is_alive() for feeder in feeders):
        for pipe in pipes:
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        for feeder in feeders:
            feeder.join(0.001)


def _prepare_job(folder: JobFolder, scratch: Path, inspect: Callable[[PreparedJob], object]) -> tuple[int, str, object]:
    try:
        with mock.patch.dict("os.environ", {"SAGEMAKER_BASE_DIR": str(folder.root)}), Interruption() as interruption:
            job = prepare(read_request(Paths.from_environment()), interruption, scratch, World())
            return 0, "", inspect(job)
    except Exception as error:  # noqa: BLE001 - as the entry point does
        failure = failure_of(error)
        return failure.exit_code, failure.message, None


@contextlib.contextmanager
def _capture_log(log: io.StringIO) -> Iterator[None]:
    logger = logging.getLogger("finetune")
    previous = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers.clear()
    try:
        with contextlib.redirect_stdout(log):
            entry._log_to_stdout()
            yield
    finally:
        logger.handlers[:], logger.propagate = previous[0], previous[2]
        logger.setLevel(previous[1])
