"""Reads TFRecord streams.

A record consists of its length (8 bytes), the checksum of the length, the payload and the checksum of the payload.
Checksums are masked CRC-32C: rotated, plus a constant.
Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np

from finetune.data.framing.window import LONGEST_RECORD, DamagedStream, Window

_HEAD = struct.Struct("<8sI")
_FOOT = struct.Struct("<I")
_AROUND = _HEAD.size + _FOOT.size
_MASK = 0xA282EAD8
_LONG = 1 << 14


def masked_checksum(content: memoryview | bytes) -> int:
    """Return the masked CRC-32C of the format."""
    # The library accepts bytes and arrays, not views; creating an array takes as long as copying a few thousand bytes.
    crc: int = google_crc32c.value(bytes(content) if len(content) < _LONG else np.frombuffer(content, np.uint8))
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def read_tfrecords(window: Window) -> Iterator[memoryview]:
    """Yield the payloads after verifying both checksums of each record.

    Raises:
        DamagedStream: if a checksum is wrong, or the stream ends inside a record.
    """
    while window.reach(_HEAD.size):
        view, at = window.view, window.at
        head, expected = _HEAD.unpack_from(view, at)
        if masked_checksum(head) != expected:
            raise DamagedStream("has a TFRecord length whose checksum is wrong", window.offset)
        length = int.from_bytes(head, "little")
        if length > LONGEST_RECORD:
            raise DamagedStream(f"claims a TFRecord of {length:,} bytes", window.offset)
        if not window.reach(length + _AROUND):
            raise DamagedStream("ends in the middle of a TFRecord", window.offset)
        view, at = window.view, window.at + _HEAD.size
        payload = view[at : at + length]
        if masked_checksum(payload) != _FOOT.unpack_from(view, at + length)[0]:
            raise DamagedStream("has a TFRecord whose checksum is wrong", window.offset)
        window.at += length + _AROUND
        yield payload
    if not window.ended():
        raise DamagedStream("ends in the middle of a TFRecord", window.offset)
