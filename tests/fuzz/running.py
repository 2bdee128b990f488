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
from finetune.job.prepare import PreparedJob, prepare
from finetune.job.request import read_request
from finetune.sagemaker.failure import failure_of
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, JobFolder, PipeSource, TrainingRequest, lay_out
from sagemaker_simulator.object_stream import epoch_bytes
from tests.fuzz.oracle import Run
from tests.support.whole_jobs import Ended, request_of, run_here

Answers = list[dict[str, float]]
"""Probability by class name for each record, in channel order."""

_SHARED: list[tempfile.TemporaryDirectory[str]] = []
_EPOCHS = 3
"""Passes over a channel in Pipe mode: one to count its records, one to read them, and one spare."""


@contextlib.contextmanager
def folder_for_an_example() -> Iterator[Path]:
    """A temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


def shared_folder() -> Path:
    """A folder for data shared by several examples, removed when the process ends."""
    _SHARED.append(tempfile.TemporaryDirectory(prefix="fuzz-base-"))
    return Path(_SHARED[-1].name)


@contextlib.contextmanager
def as_in_production() -> Iterator[None]:
    """Send Python's warnings to stderr as in production; in tests they would become errors, and false bugs."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def evaluate(place: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str] | None = None) -> Run:
    """Run a whole job with `strategy=evaluate`; its value is the `Answers` to the channel `test`."""
    ended = whole_job(place, channels, {"strategy": "evaluate", **(hyperparameters or {})})
    return Run(ended.exit_code, ended.failure, ended.log, answers_of(ended) if ended.exit_code == 0 else None)


def whole_job(place: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Ended:
    """Run a whole job within this process, in float32, as the libraries compute."""
    request = request_of(channels, {"precision": "fp32", "workers": "0", **hyperparameters})
    with as_in_production():
        return run_here(lay_out(place / "opt-ml", request))


def answers_of(ended: Ended) -> Answers:
    """The probabilities in the predictions file."""
    prefix = "probability:"
    return [
        {name.removeprefix(prefix): float(value) for name, value in row.items() if name.startswith(prefix)}
        for row in ended.predictions("test")
    ]


def read_records(
    place: Path, channels: Sequence[Channel], hyperparameters: Mapping[str, str], look: Callable[[PreparedJob], object]
) -> Run:
    """Run a job up to its first step; its value is the result of `look` on the prepared job.

    Channels in Pipe mode are fed in the background, with the same data in each epoch.
    """
    request = TrainingRequest(
        channels=tuple(channels), hyperparameters={"workers": "0", **hyperparameters}, checkpoint_path=None
    )
    folder = lay_out(place / "opt-ml", request)
    log = io.StringIO()
    with _logging_to(log), as_in_production(), tempfile.TemporaryDirectory() as scratch, _fed(folder, channels):
        code, failure, value = _prepared(folder, Path(scratch), look)
    return Run(code, failure, log.getvalue(), value)


def decoded_records(job: PreparedJob, source: RecordSource) -> list[DecodedRecord]:
    """The records of the next epoch of a channel in Pipe mode; undecodable ones count as bad records."""
    found = []
    for record in source.read_next():
        try:
            found.append(record.decode())
        except ValueError as error:
            job.loaders.bad_records[source.channel].note(f"record {record.number}", str(error))
    return found


@contextlib.contextmanager
def _fed(folder: JobFolder, channels: Sequence[Channel]) -> Iterator[None]:
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


def _prepared(folder: JobFolder, scratch: Path, look: Callable[[PreparedJob], object]) -> tuple[int, str, object]:
    try:
        with mock.patch.dict("os.environ", {"SAGEMAKER_BASE_DIR": str(folder.root)}), Interruption() as interruption:
            job = prepare(read_request(Paths.from_environment()), interruption, scratch)
            return 0, "", look(job)
    except Exception as error:  # noqa: BLE001 - as the entry point does
        failure = failure_of(error)
        return failure.exit_code, failure.message, None


@contextlib.contextmanager
def _logging_to(log: io.StringIO) -> Iterator[None]:
    ours = logging.getLogger("finetune")
    before = (list(ours.handlers), ours.level, ours.propagate)
    ours.handlers.clear()
    try:
        with contextlib.redirect_stdout(log):
            entry._log_to_stdout()
            yield
    finally:
        ours.handlers[:], ours.propagate = before[0], before[2]
        ours.setLevel(before[1])
