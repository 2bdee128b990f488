"""The processes of a host that share a stream, as threads of a test, which are connected by the same FIFOs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from finetune.config.content_types import StreamFormat
from finetune.config.hyperparameters import TaskName
from finetune.config.parse import parse_hyperparameters
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.loading.shares import RowShare
from finetune.data.pipe.batch_shares import BatchShare, SingleProcess, StreamSharing
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.sharing import SharedStreamReceiver, SharedStreamSender, make_fifos
from finetune.data.pipe.shuffle import StreamPosition, batch_records, shuffle_records
from finetune.data.pipe.source import StreamRecord, StreamSource

BATCH = 4


def feed(folder: Path, stream: bytes, epochs: int, pause: threading.Event | None = None, pause_at: float = 0.5) -> None:
    """Fill the pipes in turn; with `pause`, the part `pause_at` of each, and the rest once it is set."""
    for epoch in range(epochs):
        os.mkfifo(folder / f"train_{epoch}")
    paused_at = int(len(stream) * pause_at)

    def work() -> None:
        for epoch in range(epochs):
            with contextlib.suppress(BrokenPipeError), (folder / f"train_{epoch}").open("wb", 0) as pipe:
                pipe.write(stream[:paused_at])
                if pause is not None:
                    pause.wait()
                pipe.write(stream[paused_at:])

    threading.Thread(target=work, daemon=True).start()


def connect(folder: Path, processes: int) -> list[StreamSharing]:
    """How each process of a host shares a stream; the first one reads it."""
    if processes == 1:
        return [SingleProcess()]
    make_fifos(folder, processes)
    receivers = [SharedStreamReceiver(folder, local_rank) for local_rank in range(1, processes)]
    return [SharedStreamSender(folder, processes), *receivers]


def source_of(folder: Path, stream_format: StreamFormat, stop: threading.Event) -> StreamSource:
    """The channel `train` with its pipes in a folder."""
    task: TaskName = "text-classification" if stream_format == "csv" else "image-classification"
    options = PipeOptions("train", folder, folder / "state", 100.0, stop.is_set)
    return StreamSource(
        options, StreamLayout("train", stream_format), DecodeOptions(task, parse_hyperparameters({}).data)
    )


def read_shares(source: StreamSource, sharing: StreamSharing, share: RowShare, epochs: int) -> list[list[Any]]:
    """The results of each epoch.

    Returns:
        For each epoch, of each batch the identities, the rows of this process, and numbers and labels of its records;
        and the mark of the position.
    """
    results = []
    for epoch in range(epochs):
        position = StreamPosition()
        position.begin(epoch)
        batches: list[Any] = []
        for group in shares_of_epoch(source, sharing, share, epoch):
            position.use(group.identities)
            records = [[[record.number, *record.decode().labels] for record in part] for part in group.records]
            batches.append((group.identities, [list(rows) for rows in group.rows], records))
        results.append([batches, position.mark])
    return results


def shares_of_epoch(
    source: StreamSource, sharing: StreamSharing, share: RowShare, epoch: int
) -> Generator[BatchShare, None, None]:
    """Yield the shares of a process in the next epoch."""
    return sharing.shares(source, partial(_groups, source, epoch), share)


def _groups(source: StreamSource, epoch: int) -> Generator[list[StreamRecord], None, None]:
    yield from batch_records(shuffle_records(source.read_next(), 5, 1, epoch), BATCH)
