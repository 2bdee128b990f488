"""Reads RecordIO streams.

A record consists of the magic word, a word with a flag in its upper 3 bits and the length in the others, the payload,
and zero padding to a multiple of 4. Flags 1, 2 and 3 mark the first, middle and last part of a split record.
Format: https://mxnet.apache.org/versions/1.9.1/api/architecture/note_data_loading

Two kinds of writers split records, with the same framing. MXNet splits a payload wherever it contains the magic word at
a multiple of 4 and drops the word, so readers have to restore it. Other writers split at any position and drop nothing.
With `auto`, a part before the last whose length is not a multiple of 4 indicates the second kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.data.framing.window import MAX_RECORD_BYTES, DamagedStream, Window

Parts = Literal["auto", "escaped", "plain"]
"""How records were split: by dropping the magic word between the parts, or at arbitrary positions."""

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)

_HEADER = struct.Struct("<II")
_LENGTH_MASK = (1 << 29) - 1
_MAX_PARTS = 1 << 16
_MIN_VECTORIZED_RECORDS = 8
"""Minimum number of records in a view for vectorized header checks to be faster."""

_WHOLE, _FIRST, _MIDDLE, _LAST = 0, 1, 2, 3


def read_recordio(window: Window, parts: Parts = "auto") -> Iterator[memoryview]:
    """Yield the payloads; payloads of unsplit records are views into the stream.

    Raises:
        DamagedStream: if the stream violates the format or ends inside a record.
    """
    unpack, reach = _HEADER.unpack_from, window.reach
    length = 0
    while True:
        view, position, end = window.view, window.position, len(window.view)
        needed = 8
        while end - position >= 8:
            magic, word = unpack(view, position)
            if magic != MAGIC or word > _LENGTH_MASK:
                break
            needed = (word + 11) & ~3
            if end - position < needed or word > MAX_RECORD_BYTES:
                break
            count, length = _count_equal_lengths(view[position:], word) if word == length else 1, word
            for stop in range(position + needed, position + count * needed + 1, needed):
                window.position = position = stop
                start = stop - needed + 8
                yield view[start : start + word]
            needed = 8
        if needed > MAX_RECORD_BYTES + 8:
            raise DamagedStream(_length_error(needed - 8), window.offset)
        if reach(needed):
            _, word = unpack(window.view, window.position)
            if word > _LENGTH_MASK or window.view[window.position : window.position + 4] != MAGIC_BYTES:
                yield _join_record(window, parts)
        elif window.at_end():
            return
        else:
            raise DamagedStream("ends in the middle of a RecordIO record", window.offset)


def _count_equal_lengths(view: memoryview, length: int) -> int:
    """Count the complete records of the same length that follow; headers of short records are checked in one pass."""
    stride = (length + 11) & ~3
    if len(view) < _MIN_VECTORIZED_RECORDS * stride:
        return 1
    headers: NDArray[np.uint64] = np.ndarray((len(view) // stride,), "<u8", view, strides=(stride,))
    mismatches = np.flatnonzero(headers != MAGIC | length << 32)
    return int(mismatches[0]) if len(mismatches) else len(headers)


def _join_record(window: Window, parts: Parts) -> memoryview:
    start = window.offset
    flag, payload = _read_part(window, start)
    if flag != _FIRST:
        raise DamagedStream(f"has a RecordIO part with flag {flag} at the start of a record; expected 0 or 1", start)
    pieces = [payload]
    while flag != _LAST:
        if window.offset - start > MAX_RECORD_BYTES or len(pieces) == _MAX_PARTS:
            raise DamagedStream(
                f"has a RecordIO record of more than {MAX_RECORD_BYTES:,} bytes or {_MAX_PARTS:,} parts", start
            )
        flag, payload = _read_part(window, start)
        if flag not in (_MIDDLE, _LAST):
            raise DamagedStream(f"has a RecordIO part with flag {flag} inside a split record; expected 2 or 3", start)
        pieces.append(payload)
    return memoryview(join_parts(pieces, parts))


def join_parts(pieces: list[memoryview], parts: Parts) -> bytes:
    """Join the parts of a record into one payload."""
    plain = parts == "plain" or (parts == "auto" and any(len(piece) % 4 for piece in pieces[:-1]))
    return (b"" if plain else MAGIC_BYTES).join(pieces)


def _length_error(length: int) -> str:
    return f"has a RecordIO record of {length:,} bytes; the maximum is {MAX_RECORD_BYTES:,}"


def _read_part(window: Window, record_offset: int) -> tuple[int, memoryview]:
    if not window.reach(8):
        raise DamagedStream("ends in the middle of a RecordIO record", record_offset)
    magic, word = _HEADER.unpack_from(window.view, window.position)
    if magic != MAGIC:
        raise DamagedStream(f"has 0x{magic:08x} instead of the RecordIO magic word 0x{MAGIC:08x}", window.offset)
    flag, length = word >> 29, word & _LENGTH_MASK
    if flag > _LAST:
        raise DamagedStream(f"has a RecordIO part with unknown flag {flag}; expected 0 to 3", window.offset)
    if length > MAX_RECORD_BYTES:
        raise DamagedStream(_length_error(length), record_offset)
    padded = (length + 11) & ~3
    if not window.reach(padded):
        raise DamagedStream("ends in the middle of a RecordIO record", record_offset)
    start = window.position + 8
    window.position += padded
    return flag, window.view[start : start + length]
