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

from finetune.data.framing.window import LONGEST_RECORD, DamagedStream, Window

Parts = Literal["auto", "escaped", "plain"]
"""How records were split: by dropping the magic word between the parts, or at arbitrary positions."""

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)

_HEAD = struct.Struct("<II")
_LENGTH = (1 << 29) - 1
_MOST_PARTS = 1 << 16
_MANY = 8
"""Minimum number of records in a view for vectorized header checks to be faster."""

_WHOLE, _FIRST, _MIDDLE, _LAST = 0, 1, 2, 3


def read_recordio(window: Window, parts: Parts = "auto") -> Iterator[memoryview]:
    """Yield the payloads; payloads of unsplit records are views into the stream.

    Raises:
        DamagedStream: if the stream violates the format or ends inside a record.
    """
    unpack, reach = _HEAD.unpack_from, window.reach
    length = 0
    while True:
        view, at, end = window.view, window.at, len(window.view)
        needed = 8
        while end - at >= 8:
            magic, word = unpack(view, at)
            if magic != MAGIC or word > _LENGTH:
                break
            needed = (word + 11) & ~3
            if end - at < needed or word > LONGEST_RECORD:
                break
            count, length = _alike(view[at:], word) if word == length else 1, word
            for stop in range(at + needed, at + count * needed + 1, needed):
                window.at = at = stop
                start = stop - needed + 8
                yield view[start : start + word]
            needed = 8
        if needed > LONGEST_RECORD + 8:
            raise DamagedStream(f"claims a RecordIO record of {needed - 8:,} bytes", window.offset)
        if reach(needed):
            _, word = unpack(window.view, window.at)
            if word > _LENGTH or window.view[window.at : window.at + 4] != MAGIC_BYTES:
                yield _record_in_parts(window, parts)
        elif window.ended():
            return
        else:
            raise DamagedStream("ends in the middle of a RecordIO record", window.offset)


def _alike(view: memoryview, length: int) -> int:
    """Count the complete records of the same length that follow; headers of short records are checked in one pass."""
    stride = (length + 11) & ~3
    if len(view) < _MANY * stride:
        return 1
    heads: NDArray[np.uint64] = np.ndarray((len(view) // stride,), "<u8", view, strides=(stride,))
    others = np.flatnonzero(heads != MAGIC | length << 32)
    return int(others[0]) if len(others) else len(heads)


def _record_in_parts(window: Window, parts: Parts) -> memoryview:
    begin = window.offset
    flag, payload = _part(window, begin)
    if flag != _FIRST:
        raise DamagedStream(f"holds a RecordIO part with flag {flag} where a record should begin", begin)
    pieces = [payload]
    while flag != _LAST:
        if window.offset - begin > LONGEST_RECORD or len(pieces) == _MOST_PARTS:
            raise DamagedStream(
                f"holds a RecordIO record of more than {LONGEST_RECORD:,} bytes or {_MOST_PARTS:,} parts", begin
            )
        flag, payload = _part(window, begin)
        if flag not in (_MIDDLE, _LAST):
            raise DamagedStream(f"holds a RecordIO part with flag {flag} inside a record that is not ended", begin)
        pieces.append(payload)
    return memoryview(joined(pieces, parts))


def joined(pieces: list[memoryview], parts: Parts) -> bytes:
    """Join the parts of a record into one payload."""
    plain = parts == "plain" or (parts == "auto" and any(len(piece) % 4 for piece in pieces[:-1]))
    return (b"" if plain else MAGIC_BYTES).join(pieces)


def _part(window: Window, begin: int) -> tuple[int, memoryview]:
    if not window.reach(8):
        raise DamagedStream("ends in the middle of a RecordIO record", begin)
    magic, word = _HEAD.unpack_from(window.view, window.at)
    if magic != MAGIC:
        raise DamagedStream(f"has 0x{magic:08x} where RecordIO's magic word 0x{MAGIC:08x} is due", window.offset)
    flag, length = word >> 29, word & _LENGTH
    if flag > _LAST:
        raise DamagedStream(f"holds a RecordIO part with the unknown flag {flag}", window.offset)
    if length > LONGEST_RECORD:
        raise DamagedStream(f"claims a RecordIO record of {length:,} bytes", begin)
    padded = (length + 11) & ~3
    if not window.reach(padded):
        raise DamagedStream("ends in the middle of a RecordIO record", begin)
    start = window.at + 8
    window.at += padded
    return flag, window.view[start : start + length]
