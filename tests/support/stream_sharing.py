"""One of several processes that share a stream, run by the sharing tests; prints its records and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune.config.content_types import StreamFormat
from finetune.config.hyperparameters import TaskName
from finetune.config.parse import parse_hyperparameters
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.pipe.batch_shares import StreamSharing
from finetune.data.pipe.epoch_sync import ChannelPerProcess
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.sharing import LocalProcessGroup, SharedStreamReceiver, SharedStreamSender
from finetune.data.pipe.shuffle import StreamPosition, batch_records, shuffle_records
from finetune.data.pipe.source import StreamRecord, StreamSource
from finetune.errors import JobStopped, PlatformError
from tests.support.whole_jobs import ENVIRONMENT, ROOT

BATCH = 4
PATIENCE_SECONDS = 100.0
"""Timeout for the other processes, whose imports may take this long on a busy machine."""


def feed(folder: Path, stream: bytes, epochs: int, pause: threading.Event | None = None) -> None:
    """Fill the pipes in turn; with `pause`, half of each, and the rest once it is set."""
    for epoch in range(epochs):
        os.mkfifo(folder / f"train_{epoch}")

    def work() -> None:
        for epoch in range(epochs):
            with contextlib.suppress(BrokenPipeError), (folder / f"train_{epoch}").open("wb", 0) as pipe:
                pipe.write(stream[: len(stream) // 2])
                if pause is not None:
                    pause.wait()
                pipe.write(stream[len(stream) // 2 :])

    threading.Thread(target=work, daemon=True).start()


@contextlib.contextmanager
def processes(
    pipes: Path, group_folder: Path, stream_format: str, ranks: int, epochs: int, *mode: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the processes in one process group, so that all can be signaled at once."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    started: list[subprocess.Popen[str]] = []
    try:
        for rank in range(ranks):
            arguments = [str(pipes), str(group_folder), stream_format, str(ranks), str(rank), str(epochs), *mode]
            process = subprocess.Popen(
                [sys.executable, "-c", "from tests.support.stream_sharing import main; main()", *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                process_group=started[0].pid if started else 0,
            )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def source_of(folder: Path, stream_format: StreamFormat, stop: threading.Event) -> StreamSource:
    """The channel `train` with its pipes in a folder."""
    task: TaskName = "text-classification" if stream_format == "csv" else "image-classification"
    options = PipeOptions("train", folder, folder / "state", PATIENCE_SECONDS, stop.is_set)
    return StreamSource(
        options, StreamLayout("train", stream_format), DecodeOptions(task, parse_hyperparameters({}).data)
    )


def read_shares(source: StreamSource, sharing: StreamSharing, epochs: int, used: Sequence[int] = ()) -> list[list[Any]]:
    """The results of each epoch: numbers and labels of the share of each batch, all identities, and the position.

    The records with the identities `used` were used in the first epoch before a restart.
    """
    results = []
    for epoch in range(epochs):
        position = StreamPosition()
        position.begin(epoch)
        position.use(used if not epoch else ())
        batches: list[Any] = []
        read = partial(_groups, source, position, epoch)
        for group in sharing.shares(source, read):
            position.use(group.identities)
            share = [[record.number, *record.decode().labels] for record in group.records]
            batches.append({"share": share, "identities": group.identities})
            if epochs > 90:
                print("batch", flush=True)  # noqa: T201 - a process of a test
        results.append([batches, position.state_dict()["hash"]])
    return results


def _groups(source: StreamSource, position: StreamPosition, epoch: int) -> Generator[list[StreamRecord], None, None]:
    ordered = shuffle_records(source.read_next(), 5, 1, epoch)
    yield from batch_records(position.skip_used(ordered, source.channel), BATCH)


def main() -> None:
    """Arguments: folders of the pipes and of the process group, format, processes, rank, epochs, mode, used records.

    Mode: `own` if each process has its own channel. Used records: a file with the identities for each process.
    """
    folder, group_folder, stream_format, ranks, rank, epochs, *mode = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    group = LocalProcessGroup(Path(group_folder), int(ranks), PATIENCE_SECONDS)
    sharing: StreamSharing = SharedStreamReceiver(group, int(rank)) if int(rank) else SharedStreamSender(group)
    if mode[:1] == ["own"]:
        sharing, folder = ChannelPerProcess(group, int(rank)), f"{folder}/{rank}"
    source = source_of(Path(folder), "csv" if stream_format == "csv" else "recordio", stop)
    used = json.loads(Path(mode[1]).read_text())[int(rank)] if len(mode) > 1 else ()
    try:
        print(json.dumps(read_shares(source, sharing, int(epochs), used)))  # noqa: T201
    except JobStopped:
        print("stopped")  # noqa: T201
    except PlatformError as error:
        print(f"failed: {error}")  # noqa: T201
