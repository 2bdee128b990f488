"""Cost of one process reading a stream for several.

Compares groups of records as `StreamBatches` takes them, copied from the stream and with their identities: read by a
single process, and by a process that shares them with others, which receive them as fast as they can.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.pipe.comparing import Row, Scale, by_turns, rate, times_as_fast
from benchmarks.pipe.streams import fed, jpegs, place_of, write_images
from finetune.config.parse import parse_hyperparameters
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.loading.shares import WHOLE_BATCHES, RowShare
from finetune.data.pipe.batch_shares import SingleProcess, StreamSharing
from finetune.data.pipe.sharing import SharedStreamReceiver, SharedStreamSender, make_fifos
from finetune.data.pipe.shuffle import batch_records
from finetune.data.pipe.source import StreamRecord, StreamSource
from finetune.distributed.shares import ShardsOfBatches
from finetune.distributed.world import World

_BATCH = 64


def measure(scale: Scale) -> Iterator[Row]:
    """Compare two processes, one of which reads, and three."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        stream = Path(scratch) / "images"
        write_images(stream, jpegs(min(256, scale.images)))
        times = max(1, scale.stream // stream.stat().st_size)
        gigabytes = times * stream.stat().st_size / 1e9
        designs: dict[str, Callable[[], float]] = {
            "alone": partial(_epoch, stream, times, SingleProcess(), WHOLE_BATCHES)
        }
        with _dealer(Path(scratch) / "two", 2) as two, _dealer(Path(scratch) / "three", 3) as three:
            designs |= {
                "two": partial(_epoch, stream, times, two, _share(0, 2)),
                "three": partial(_epoch, stream, times, three, _share(0, 3)),
            }
            seconds = by_turns(designs, scale.rounds)
        measurements = {
            "two": "distribution to 2 processes, one of which reads",
            "three": "distribution to 2 reading processes",
        }
        for name, measurement in measurements.items():
            own, alone = (rate(gigabytes, seconds[side], "GB/s") for side in (name, "alone"))
            yield Row(measurement, own, f"single reader, {alone}", times_as_fast(seconds, name, "alone"), "≥ 0.35")


def source_of(folder: Path) -> StreamSource:
    """The channel whose FIFOs are in a folder."""
    options = DecodeOptions("image-classification", parse_hyperparameters({}).data)
    return StreamSource(place_of(folder), StreamLayout("train", "recordio"), options)


def _share(rank: int, ranks: int) -> RowShare:
    return ShardsOfBatches(ranks, World(rank, ranks, rank, ranks))


def _epoch(stream: Path, times: int, sharing: StreamSharing, share: RowShare) -> float:
    with fed(stream, times) as folder:
        source = source_of(folder)
        began = time.perf_counter()
        for _ in sharing.shares(source, lambda: (group for group in batch_records(source.read_next(), _BATCH)), share):
            pass
        return time.perf_counter() - began


@contextmanager
def _dealer(folder: Path, ranks: int) -> Iterator[SharedStreamSender]:
    """Start waiting processes, which are served."""
    make_fifos(folder, ranks)
    processes = [
        subprocess.Popen(
            (sys.executable, "-m", "benchmarks.pipe.dealing", folder, str(ranks), str(rank)), stdout=subprocess.PIPE
        )
        for rank in range(1, ranks)
    ]
    for process in processes:
        if process.stdout is not None:
            process.stdout.readline()
    dealer = SharedStreamSender(folder, ranks)
    try:
        yield dealer
    finally:
        for process in processes:
            process.kill()
            process.wait()
        dealer.close()


def main() -> None:
    """Receive shares until killed; arguments: the table's folder, number of processes, and rank of this one."""
    folder, ranks, rank = sys.argv[1:]
    receiver, source = SharedStreamReceiver(Path(folder), int(rank)), source_of(Path(folder))
    print("ready", flush=True)  # the FIFO is open
    share = _share(int(rank), int(ranks))
    while True:
        for _ in receiver.shares(source, _nothing, share):
            pass


def _nothing() -> Generator[list[StreamRecord], None, None]:
    yield from ()


if __name__ == "__main__":
    main()
