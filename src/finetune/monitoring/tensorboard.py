"""Writes scalars to TensorBoard event files without the TensorBoard package.

The package would require a protobuf version incompatible with the debugger's. A file is a sequence of records: length
(uint64), its masked CRC-32C, the message and its masked CRC-32C; a message is an `Event` of TensorFlow's `event.proto`.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune.runtime.masked_crc32c import masked_crc32c

logger = logging.getLogger(__name__)


class EventFile:
    """A new event file in a folder; a resumed job adds another file, which TensorBoard shows as the same run.

    If the folder is not writable, one warning is logged and nothing is written; the job does not fail.

    Args:
        folder: Folder of the event files; created if missing.
        clock: Unix time in seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        name = f"events.out.tfevents.{int(clock()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._path: Path | None = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._disable(error)
        self._append(_length_delimited(3, b"brain.Event:2"))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""
        summary = b"".join(
            _length_delimited(1, _length_delimited(1, name.encode()) + _tag(2, 5) + _float32(value))
            for name, value in values.items()
        )
        self._append(_tag(2, 0) + _varint(step) + _length_delimited(5, summary))

    def _append(self, fields: bytes) -> None:
        if self._path is None:
            return
        message = _tag(1, 1) + struct.pack("<d", self._clock()) + fields
        length = struct.pack("<Q", len(message))
        record = length + struct.pack("<I", masked_crc32c(length)) + message + struct.pack("<I", masked_crc32c(message))
        try:
            with self._path.open("ab") as file:
                file.write(record)
        except OSError as error:
            self._disable(error)

    def _disable(self, error: OSError) -> None:
        logger.warning("Cannot write TensorBoard events: %s", error)
        self._path = None


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        # A diverging loss may exceed the range of float32 before it is infinite.
        return struct.pack("<f", math.copysign(math.inf, value))


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _length_delimited(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
