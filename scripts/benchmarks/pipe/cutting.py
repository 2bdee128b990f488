"""Speed of splitting a pipe into records, compared with reading the pipe alone.

Each implementation reads the same file through a FIFO filled by `cat`. "Raw" is `readv` into one buffer, with a pipe
of 1 MiB like ours; the SDK's reader and `tarfile` use their own pipe size.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.pipe.comparing import Row, Scale, Seconds, by_turns, rate, times_as_fast
from benchmarks.pipe.streams import Read, chunks_of, fed, through_fifo, write_recordio, write_tar, write_tfrecord
from finetune.data.framing.recordio import read_recordio
from finetune.data.framing.tar_members import read_tar
from finetune.data.framing.tfrecord import read_tfrecords
from finetune.data.framing.window import Window

_ROOT = Path(__file__).resolve().parents[3]
_SMALL, _LARGE = 4 << 10, 100 << 10
_BUFFER = 1 << 20


def measure(scale: Scale) -> Iterator[Row]:
    """Compare the readers of each format."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, _sdk() as (version, sdk):
        stream = Path(scratch) / "stream"
        count = write_recordio(stream, _LARGE, scale.stream)
        case = _Case("RecordIO, 100 KiB", stream, by_turns(_beside_raw(stream, _recordio, count), scale.rounds))
        yield case.row("raw", "raw `readv`", "≥ 0.85")
        count = write_recordio(stream, _SMALL, scale.stream)
        designs = _beside_raw(stream, _recordio, count)
        designs["sdk"] = partial(sdk, stream, count)
        case = _Case("RecordIO, 4 KiB", stream, by_turns(designs, scale.rounds))
        yield case.row("raw", "raw `readv`", "≥ 0.75")
        yield case.row("sdk", f"`read_recordio` of sagemaker {version}", "≥ 2.5")
        count = write_tfrecord(stream, _LARGE, scale.stream)
        seconds = by_turns(_beside_raw(stream, _tfrecord, count), scale.rounds)
        yield _Case("TFRecord, 100 KiB, both checksums", stream, seconds).row("raw", "raw `readv`", "≥ 0.75")
        count = write_tar(stream, _LARGE, scale.stream)
        case = _Case("tar, 100 KiB", stream, by_turns(_beside_raw(stream, _tar, count), scale.rounds))
        yield case.row("raw", "raw `readv`", "≥ 0.85")
        # A quarter of the stream, because `tarfile` is slow.
        count = write_tar(stream, _SMALL, scale.stream // 4)
        turns = by_turns(
            {"ours": _piped(stream, _tar, count), "tarfile": _piped(stream, _tarfile, count)}, scale.rounds
        )
        yield _Case("tar, 4 KiB", stream, turns).row("tarfile", "`tarfile`", "≥ 5")


@dataclass(frozen=True, slots=True)
class _Case:
    what: str
    stream: Path
    seconds: Seconds

    def row(self, other: str, name: str, goal: str) -> Row:
        """Our reader compared with another one."""
        gigabytes = self.stream.stat().st_size / 1e9
        own, theirs = (rate(gigabytes, self.seconds[design], "GB/s") for design in ("ours", other))
        return Row(self.what, own, f"{name}, {theirs}", times_as_fast(self.seconds, "ours", other), goal)


def _beside_raw(stream: Path, read: Read, records: int) -> dict[str, Callable[[], float]]:
    return {"raw": _piped(stream, raw), "ours": _piped(stream, read, records)}


def _piped(stream: Path, read: Read, records: int | None = None) -> Callable[[], float]:
    return partial(through_fifo, stream, read, records)


def raw(folder: Path) -> int:
    """Read to the end without parsing."""
    descriptor = os.open(folder / "train_0", os.O_RDONLY)
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _BUFFER)
    buffer = [bytearray(_BUFFER)]
    count = 0
    while os.readv(descriptor, buffer):
        count += 1
    os.close(descriptor)
    return count


def _recordio(folder: Path) -> int:
    return sum(1 for _ in read_recordio(Window(chunks_of(folder))))


def _tfrecord(folder: Path) -> int:
    return sum(1 for _ in read_tfrecords(Window(chunks_of(folder))))


def _tar(folder: Path) -> int:
    return sum(1 for _ in read_tar(Window(chunks_of(folder))))


def _tarfile(folder: Path) -> int:
    count = 0
    with tarfile.open(folder / "train_0", "r|", ignore_zeros=True) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                file.read()
                count += 1
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
    return count


@contextmanager
def _sdk() -> Iterator[tuple[str, Callable[[Path, int], float]]]:
    """The SDK's version, and its reader in a process with its own packages, which times itself."""
    made = subprocess.run([_ROOT / "scripts" / "environment", "sdk-v2"], stdout=subprocess.PIPE, text=True, check=True)
    command = (Path(made.stdout.strip()) / "bin" / "python", Path(__file__).with_name("sdk_reader.py"))
    environment = {"PATH": os.environ["PATH"], "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        tell, answers = process.stdin, process.stdout
        version = answers.readline().strip()

        def read(stream: Path, records: int) -> float:
            with fed(stream) as folder:
                tell.write(f"{folder / 'train_0'}\n")
                seconds, count = answers.readline().split()
            if int(count) != records:
                raise RuntimeError(f"the SDK found {count} records instead of {records}")
            return float(seconds)

        yield version, read
        tell.close()
