"""A process among several that share a stream, run by the tests of dealing: prints what it got, and how it ended."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from finetune.data.pipe import PipePlace
from finetune.data.record import Stopped
from finetune.data.stream_dealing import Dealer, Receiver, Table
from finetune.data.stream_groups import Alone, Sharing
from finetune.data.stream_order import StreamPosition, grouped, shuffled
from finetune.data.stream_source import StreamSource
from finetune.data.streams.codec import StreamLayout
from finetune.data.streams.named_fields import Wanted
from finetune.errors import PlatformError
from finetune.spec.job_spec import Task
from finetune.spec.parse import parse_hyperparameters
from finetune.spec.stream_types import StreamForm

BATCH = 4


def source_of(folder: Path, form: StreamForm, stop: threading.Event) -> StreamSource:
    """The channel `train` with pipes in a folder."""
    task: Task = "text-classification" if form == "csv" else "image-classification"
    place = PipePlace("train", folder, folder / "state", 20.0, stop.is_set)
    return StreamSource(place, StreamLayout("train", form), Wanted(task, parse_hyperparameters({}).data))


def take_part(source: StreamSource, sharing: Sharing, epochs: int) -> list[list[Any]]:
    """What is got of each epoch: numbers and labels of the share of each batch, all identities, and the position."""
    found = []
    for epoch in range(epochs):
        position = StreamPosition()
        position.begin(epoch)
        batches: list[Any] = []
        read = lambda number=epoch: (group for group in grouped(shuffled(source.read_next(), 5, 1, number), BATCH))  # noqa: E731
        for group in sharing.groups(source, read):
            position.use(group.identities)
            share = [[record.number, *record.decode().labels] for record in group.records]
            batches.append({"share": share, "identities": group.identities})
            if epochs > 90:
                print("batch", flush=True)  # noqa: T201 - a process of a test
        found.append([batches, position.state_dict()["hash"]])
    return found


def main() -> None:
    """Arguments: folder of the pipes, of the table, form, processes, rank, epochs."""
    folder, table_folder, form, ranks, rank, epochs = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    table = Table(Path(table_folder), int(ranks), 20.0)
    sharing: Sharing = Receiver(table, int(rank)) if int(rank) else Dealer(table)
    source = source_of(Path(folder), "csv" if form == "csv" else "recordio", stop)
    try:
        print(json.dumps(take_part(source, sharing if int(ranks) > 1 else Alone(), int(epochs))))  # noqa: T201
    except Stopped:
        print("stopped")  # noqa: T201
    except PlatformError as error:
        print(f"failed: {error}")  # noqa: T201
