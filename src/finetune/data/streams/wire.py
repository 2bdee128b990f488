"""Which fields does a protocol buffer message have?

The library that the image's other packages allow decodes in plain Python here, field by field and number by number. A
record needs a few fields only, and its numbers lie packed, as NumPy reads them.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class DamagedMessage(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The bytes are no message of the format."""


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Give number, wire type and value of each field: an integer for a varint, else the bytes of the value.

    Raises:
        DamagedMessage: the message ends inside a field, or has a field of an unknown kind.
    """
    at, end = 0, len(message)
    while at < end:
        # Most tags have one byte; a call for each would take half of the time.
        tag, at = (message[at], at + 1) if message[at] < 0x80 else varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = varint(message, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = varint(message, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise DamagedMessage(f"has a field of the unknown kind {kind}")
        if number == 0 or length > end - at:
            raise DamagedMessage("ends inside a field")
        yield number, kind, message[at : at + length]
        at += length


def parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Give the values of a field that holds bytes, texts or messages."""
    for number, kind, value in fields(message):
        if number == wanted and kind == BYTES and isinstance(value, memoryview):
            yield value


def entries(message: memoryview, wanted: int) -> Iterator[tuple[str, memoryview]]:
    """Give keys and values of a field that is a map from texts to messages."""
    return map(entry, parts(message, wanted))


def entry(message: memoryview) -> tuple[str, memoryview]:
    """Key and value of an entry of such a map."""
    key, content = b"", memoryview(b"")
    for number, kind, value in fields(message):
        if kind == BYTES and isinstance(value, memoryview):
            key, content = (bytes(value), content) if number == 1 else (key, value)
    return key.decode("utf-8", "replace"), content


def floats(message: memoryview, wanted: int) -> NDArray[np.float64]:
    """The numbers of a repeated field of floats, packed or one by one."""
    return joined([value for number, _, value in fields(message) if number == wanted], "<f4")


def joined(pieces: Sequence[memoryview | int], dtype: str) -> NDArray[np.float64]:
    """The numbers that a repeated field of floats (`<f4`) or doubles (`<f8`) has in so many pieces."""
    found = [piece for piece in pieces if isinstance(piece, memoryview)]
    if any(len(piece) % int(dtype[-1]) for piece in found):
        raise DamagedMessage("ends inside a number")
    return np.frombuffer(found[0] if len(found) == 1 else b"".join(found), dtype).astype(np.float64)


def integers(message: memoryview, wanted: int, *, signed: bool = True) -> list[int]:
    """The numbers of a repeated field of integers, packed or one by one."""
    found: list[int] = []
    for number, _, value in fields(message):
        if number != wanted:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = varint(value, at)
            found.append(one)
    return [one - (1 << 64) if signed and one >> 63 else one for one in found]


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer at a place, and the place after it.

    Raises:
        DamagedMessage: the message ends inside it, or it is longer than 10 bytes.
    """
    value, end = 0, len(message)
    if end - at >= 2:
        # Nearly all have one or two bytes.
        low, high = message[at], message[at + 1]
        if low < 0x80:
            return low, at + 1
        if high < 0x80:
            return low & 0x7F | high << 7, at + 2
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise DamagedMessage("ends inside a number")
