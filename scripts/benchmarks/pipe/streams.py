"""The benchmark streams and their FIFOs."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image

from finetune.data.framing.recordio import MAGIC_BYTES
from finetune.data.pipe.fifo import Pipe, PipeOptions

Read = Callable[[Path], int]
"""A function from the folder of a FIFO to the number of records read."""


def through_fifo(stream: Path, read: Read, records: int | None = None, times: int = 1) -> float:
    """Seconds to read a FIFO to its end, with `cat` writing a file into it `times` times.

    Raises:
        RuntimeError: the number of records is wrong.
    """
    with fed(stream, times) as folder:
        began = time.perf_counter()
        count = read(folder)
        seconds = time.perf_counter() - began
    if records is not None and count != records:
        raise RuntimeError(f"{read.__name__} found {count} records instead of {records}")
    return seconds


@contextmanager
def fed(stream: Path, times: int = 1) -> Iterator[Path]:
    """A folder with the FIFO `train_0`, filled by `cat`."""
    with tempfile.TemporaryDirectory(prefix="pipe-") as folder:
        fifo = Path(folder) / "train_0"
        os.mkfifo(fifo)
        command = 'fifo=$1; shift; exec cat "$@" > "$fifo"'
        with subprocess.Popen(("sh", "-c", command, "cat", fifo, *[stream] * times)) as writer:
            yield Path(folder)
            writer.kill()


def place_of(folder: Path) -> PipeOptions:
    """The channel whose FIFOs are in a folder."""
    return PipeOptions("train", folder, folder / "state")


def chunks_of(folder: Path) -> Generator[memoryview, None, None]:
    """The chunks of the FIFO in a folder, as read by jobs."""
    with closing(Pipe(place_of(folder)).read_next()) as chunks:
        yield from chunks


def recordio(payload: bytes) -> bytes:
    """A RecordIO record."""
    return MAGIC_BYTES + struct.pack("<I", len(payload)) + payload + bytes(-len(payload) % 4)


def write_recordio(path: Path, size: int, total: int) -> int:
    """Write records of `size` bytes, about `total` bytes in all; return their number."""
    return _repeat(path, recordio(os.urandom(size)), total)


def write_tfrecord(path: Path, size: int, total: int) -> int:
    """The same in TFRecord."""
    length, content = struct.pack("<Q", size), os.urandom(size)
    return _repeat(path, length + _masked(length) + content + _masked(content), total)


def write_tar(path: Path, size: int, total: int) -> int:
    """The same as files in a tar archive."""
    info = tarfile.TarInfo("folder/0000.jpg")
    info.size = size
    count = _repeat(path, info.tobuf() + os.urandom(size) + bytes(-size % 512), total)
    with path.open("ab") as file:
        file.write(bytes(1024))
    return count


def write_images(path: Path, images: list[bytes]) -> None:
    """Write images as MXNet image records, of two classes."""
    with path.open("wb") as file:
        for number, image in enumerate(images):
            file.write(recordio(struct.pack("<IfQQ", 0, number % 2, number, 0) + image))


def jpegs(count: int, *, noise: float = 0.0, quality: int = 75) -> list[bytes]:
    """Different images of 500 x 375: 40 kB each, and 122 kB with `noise=6, quality=95`."""
    contents = []
    for number in range(count):
        draw = np.random.default_rng(number)
        small = Image.fromarray(draw.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)) + draw.normal(0, noise, (375, 500, 1))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        contents.append(file.getvalue())
    return contents


def _masked(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def _repeat(path: Path, record: bytes, total: int) -> int:
    count = total // len(record)
    with path.open("wb") as file:
        for _ in range(count // 64):
            file.write(record * 64)
        file.write(record * (count % 64))
    return count
