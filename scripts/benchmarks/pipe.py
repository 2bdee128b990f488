"""How close to the speed of the pipe itself are records cut out of it?

Every design reads the same stream through a FIFO that `cat` fills, in turn and several times over; reported are medians
and their ratio to reading without looking at the bytes.
"""

from __future__ import annotations

import io
import os
import statistics
import struct
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import google_crc32c

from finetune.data.pipe import Pipe, PipePlace
from finetune.data.streams.recordio import MAGIC_BYTES, read_recordio
from finetune.data.streams.tar_members import read_tar
from finetune.data.streams.tfrecord import read_tfrecords
from finetune.data.streams.window import Window

ROUNDS = 7
STREAM_BYTES = 256 << 20
Read = Callable[[Path], int]


def main() -> None:
    """Measure, and print a table in Markdown."""
    print("| stream | design | records/s | GB/s | ratio to raw |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="benchmark-pipe-") as scratch:
        for size in (100 << 10, 4 << 10):
            for form, (write, designs) in FORMS.items():
                stream = Path(scratch) / f"{form}-{size}"
                records = write(stream, size)
                _report(f"{form}, {size >> 10} KiB", stream, records, designs)
                stream.unlink()


def _report(name: str, stream: Path, records: int, designs: dict[str, Read]) -> None:
    seconds: dict[str, list[float]] = {design: [] for design in ("raw", *designs)}
    for _ in range(ROUNDS):
        for design, read in {"raw": _raw, **designs}.items():
            spent, found = _through_pipe(stream, read)
            if design != "raw" and found != records:
                raise RuntimeError(f"{name}: {design} found {found} records instead of {records}")
            seconds[design].append(spent)
    medians = {design: statistics.median(times) for design, times in seconds.items()}
    for design, median in medians.items():
        speed, ratio = stream.stat().st_size / median / 1e9, medians["raw"] / median
        print(f"| {name} | {design} | {records / median:,.0f} | {speed:.2f} | {ratio:.2f} |", flush=True)


def _through_pipe(stream: Path, read: Read) -> tuple[float, int]:
    with tempfile.TemporaryDirectory(prefix="pipe-") as folder:
        fifo = Path(folder) / "train_0"
        os.mkfifo(fifo)
        with subprocess.Popen(("sh", "-c", 'exec cat "$1" > "$2"', "cat", stream, fifo)):
            began = time.perf_counter()
            found = read(Path(folder))
            return time.perf_counter() - began, found


def _chunks(folder: Path) -> Iterator[bytes]:
    with closing(Pipe(PipePlace("train", folder, folder / "state")).read_next()) as chunks:
        yield from chunks


def _raw(folder: Path) -> int:
    return sum(1 for _ in _chunks(folder))


def _recordio(folder: Path) -> int:
    return sum(1 for _ in read_recordio(Window(_chunks(folder))))


def _tfrecord(folder: Path) -> int:
    return sum(1 for _ in read_tfrecords(Window(_chunks(folder))))


def _tar(folder: Path) -> int:
    return sum(1 for _ in read_tar(Window(_chunks(folder))))


def _tarfile(folder: Path) -> int:
    found = 0
    with tarfile.open(folder / "train_0", "r|", ignore_zeros=True) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                file.read()
                found += 1
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
    return found


def _field_by_field(folder: Path) -> int:
    """RecordIO as it is read with two buffered reads for each record, which is how the SDK does it."""
    found = 0
    with (folder / "train_0").open("rb") as file:
        while head := file.read(8):
            length = struct.unpack("<II", head)[1]
            file.read(length)
            file.read(-length % 4)
            found += 1
    return found


def _write_recordio(path: Path, size: int) -> int:
    record = MAGIC_BYTES + struct.pack("<I", size) + os.urandom(size)
    return _repeat(path, record)


def _write_tfrecord(path: Path, size: int) -> int:
    length, content = struct.pack("<Q", size), os.urandom(size)
    return _repeat(path, length + _masked(length) + content + _masked(content))


def _write_tar(path: Path, size: int) -> int:
    info = tarfile.TarInfo("folder/0000.jpg")
    info.size = size
    member = info.tobuf() + os.urandom(size) + bytes(-size % 512)
    count = _repeat(path, member)
    with path.open("ab") as file:
        file.write(bytes(1024))
    return count


def _masked(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def _repeat(path: Path, record: bytes) -> int:
    count = STREAM_BYTES // len(record)
    block = io.BytesIO()
    for _ in range(64):
        block.write(record)
    with path.open("wb") as file:
        for _ in range(count // 64):
            file.write(block.getvalue())
        file.write(record * (count % 64))
    return count


FORMS: dict[str, tuple[Callable[[Path, int], int], dict[str, Read]]] = {
    "RecordIO": (_write_recordio, {"ours": _recordio, "field by field": _field_by_field}),
    "TFRecord": (_write_tfrecord, {"ours, both checksums": _tfrecord}),
    "tar": (_write_tar, {"ours": _tar, "tarfile": _tarfile}),
}
