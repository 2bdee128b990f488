"""Writers of the stream formats, written from the specifications and independently of the readers."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import google_crc32c

MAGIC = struct.pack("<I", 0xCED7230A)


def recordio(payload: bytes, flag: int = 0) -> bytes:
    """One record, or one part of a record."""
    return MAGIC + struct.pack("<I", flag << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def join_parts(parts: Sequence[bytes]) -> bytes:
    """One record in several parts."""
    flags = [1, *[2] * (len(parts) - 2), 3]
    return b"".join(recordio(part, flag) for part, flag in zip(parts, flags, strict=True))


def escaped_recordio(payload: bytes) -> bytes:
    """One record as MXNet writes it: split at magic words at multiples of 4, which are omitted."""
    parts, begin = [], 0
    for at in range(0, len(payload) - 3, 4):
        if payload[at : at + 4] == MAGIC:
            parts.append(payload[begin:at])
            begin = at + 4
    parts.append(payload[begin:])
    return recordio(payload) if len(parts) == 1 else join_parts(parts)


def tfrecord(payload: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(payload))
    return length + _masked(length) + payload + _masked(payload)


def _masked(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def split_chunks(content: bytes, sizes: Sequence[int]) -> Iterator[bytearray]:
    """The same bytes in chunks whose sizes cycle through `sizes`."""
    at, turn = 0, 0
    while at < len(content):
        size = max(1, sizes[turn % len(sizes)]) if sizes else len(content)
        yield bytearray(content[at : at + size])
        at, turn = at + size, turn + 1


def example(features: Mapping[str, bytes | int]) -> bytes:
    """A `tf.train.Example` with a bytes or integer value for each feature."""
    return inside(
        1, b"".join(inside(1, inside(1, name.encode()) + inside(2, _value(features[name]))) for name in features)
    )


def _value(value: bytes | int) -> bytes:
    return inside(1, inside(1, value)) if isinstance(value, bytes) else inside(3, inside(1, varint(value)))


def inside(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field: bytes, string or message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A protobuf varint."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def split_views(content: bytes, sizes: Sequence[int]) -> Iterator[memoryview]:
    """The same bytes in chunks that are contiguous in memory, except for a gap in the middle."""
    half = len(content) // 2
    for part in (content[:half], content[half:]):
        view, at = memoryview(part), 0
        for chunk in split_chunks(part, sizes):
            yield view[at : at + len(chunk)]
            at += len(chunk)


def protobuf_record(features: Mapping[str, bytes], labels: Mapping[str, bytes]) -> bytes:
    """A platform record whose features and labels hold bytes."""
    return b"".join(
        inside(number, inside(1, name.encode()) + inside(2, inside(9, inside(1, content))))
        for number, values in ((1, features), (2, labels))
        for name, content in values.items()
    )


def fill(folder: Path, stream: bytes, epochs: int = 1) -> None:
    """Create the pipes, and write the same stream into each in turn."""
    for epoch in range(epochs):
        os.mkfifo(folder / f"train_{epoch}")

    def work() -> None:
        for epoch in range(epochs):
            with contextlib.suppress(BrokenPipeError):
                (folder / f"train_{epoch}").write_bytes(stream)

    threading.Thread(target=work, daemon=True).start()
