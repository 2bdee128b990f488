"""Reads TFRecord streams.

A record consists of its length (8 bytes), the checksum of the length, the payload and the checksum of the payload.
Checksums are masked CRC-32C.
Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from finetune.data.framing.window import MAX_RECORD_BYTES, DamagedStream, Window
from finetune.runtime.masked_crc32c import masked_crc32c

_HEADER = struct.Struct("<8sI")
_FOOTER = struct.Struct("<I")
_OVERHEAD_BYTES = _HEADER.size + _FOOTER.size


def read_tfrecords(window: Window) -> Iterator[memoryview]:
    """Yield the payloads after verifying both checksums of each record.

    Raises:
        DamagedStream: if a checksum is wrong, or the stream ends inside a record.
    """
    while window.reach(_HEADER.size):
        view, position = window.view, window.position
        length_bytes, expected = _HEADER.unpack_from(view, position)
        if masked_crc32c(length_bytes) != expected:
            raise DamagedStream("has a TFRecord length with a wrong checksum", window.offset)
        length = int.from_bytes(length_bytes, "little")
        if length > MAX_RECORD_BYTES:
            raise DamagedStream(
                f"has a TFRecord of {length:,} bytes; the maximum is {MAX_RECORD_BYTES:,}", window.offset
            )
        if not window.reach(length + _OVERHEAD_BYTES):
            raise DamagedStream("ends in the middle of a TFRecord", window.offset)
        view, position = window.view, window.position + _HEADER.size
        payload = view[position : position + length]
        if masked_crc32c(payload) != _FOOTER.unpack_from(view, position + length)[0]:
            raise DamagedStream("has a TFRecord with a wrong checksum", window.offset)
        window.position += length + _OVERHEAD_BYTES
        yield payload
    if not window.at_end():
        raise DamagedStream("ends in the middle of a TFRecord", window.offset)
