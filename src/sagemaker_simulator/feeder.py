"""Creates and feeds the FIFOs of a channel in Pipe mode.

Each channel has a separate process, which is killed with its machine. It continues with the next epoch when all data is
written, or when the reader closes early.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sagemaker_simulator.object_stream import PipeSource, epoch_bytes

_PROGRAM = "from sagemaker_simulator.feeder import main; main()"


@dataclass(frozen=True, slots=True)
class FeederOptions:
    """Behavior of a feeder.

    Attributes:
        delay_seconds: Delay before each FIFO is created.
        bytes_per_second: Average rate; `None` for no limit.
        burst_bytes: Bytes written at once.
        fifos_ahead: Number of FIFOs created in advance of the one in use.
    """

    delay_seconds: float = 0.0
    bytes_per_second: float | None = None
    burst_bytes: int = 1 << 16
    fifos_ahead: int = 1


class PipeFeeder:
    """Process that feeds one channel."""

    def __init__(
        self, channel: str, folder: Path, source: Path, source_options: PipeSource, feeder_options: FeederOptions
    ) -> None:
        """Start the process."""
        plan = {
            "channel": channel,
            "folder": str(folder),
            "source": str(source.absolute()),
            "source_options": asdict(source_options),
            "feeder_options": asdict(feeder_options),
        }
        root = str(Path(__file__).resolve().parent.parent)
        self._process = subprocess.Popen(  # noqa: S603 - this module itself
            (sys.executable, "-c", _PROGRAM, json.dumps(plan)),
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kill the process immediately."""
        self._process.kill()
        self._process.wait()


def feed(channel: str, folder: Path, source: Path, source_options: PipeSource, feeder_options: FeederOptions) -> None:
    """Feed epochs endlessly."""
    created = 0
    epoch = 0
    while True:
        while created <= epoch + feeder_options.fifos_ahead:
            if feeder_options.delay_seconds and created <= epoch:
                time.sleep(feeder_options.delay_seconds)
            os.mkfifo(folder / f"{channel}_{created}")
            created += 1
        path = folder / f"{channel}_{epoch}"
        descriptor = os.open(path, os.O_WRONLY)
        try:
            for chunk in epoch_bytes(source, source_options, epoch):
                _write(descriptor, chunk, feeder_options)
        except BrokenPipeError:
            sys.stderr.write(f"{path.name} was closed by its reader\n")
        finally:
            path.unlink()
            os.close(descriptor)
        epoch += 1


def _write(descriptor: int, chunk: bytes, feeder_options: FeederOptions) -> None:
    for burst in _bursts(chunk, feeder_options.burst_bytes):
        written = 0
        while written < len(burst):
            written += os.write(descriptor, burst[written:])
        if feeder_options.bytes_per_second is not None:
            time.sleep(len(burst) / feeder_options.bytes_per_second)


def _bursts(chunk: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(chunk)
    for start in range(0, len(view), size):
        yield view[start : start + size]


def main() -> None:
    """Feed as specified by the single argument, until killed."""
    plan = json.loads(sys.argv[1])
    source = plan["source_options"]
    source |= {"attributes": tuple(source["attributes"]), "shard": tuple(source["shard"])}
    feed(
        plan["channel"],
        Path(plan["folder"]),
        Path(plan["source"]),
        PipeSource(**source),
        FeederOptions(**plan["feeder_options"]),
    )
