"""Which fields does a protocol buffer message have?

The library that the image's other packages allow decodes in plain Python here, field by field and number by number. A
record needs a few fields only, and its numbers lie packed, as NumPy reads them. Messages lie in one another, and are
looked at where they are: a view, or a generator, for each would take most of the time.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Span = tuple[memoryview, int, int]
"""Bytes, and where in them a message begins and ends."""

MOST_FIELDS = 1 << 16
MOST_NUMBERS = 1 << 22
"""Numbers of one field; each becomes an object of 32 bytes."""

_KEY, _VALUE = 1 << 3 | BYTES, 2 << 3 | BYTES


class DamagedMessage(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The bytes are no message of the format."""


def field(content: memoryview, at: int, end: int) -> tuple[int, int, int]:
    """Find the field that begins at a place.

    Args:
        content: holds the message.
        at: where the field begins, before `end`.
        end: of the message.

    Returns:
        Its tag, which is eight times its number and its wire type, and where its value begins and ends.

    Raises:
        DamagedMessage: the message ends inside the field, or the field is of an unknown kind or has no number.
    """
    # Most tags have one byte and most lengths one or two; calls for them would take half of the time.
    tag = content[at]
    at += 1
    if tag >= 0x80:
        tag, at = varint(content, at - 1)
    kind = tag & 7
    if kind == BYTES:
        length = content[at] if at < end else 0x80
        at += 1
        if length >= 0x80:
            high = content[at] if at < end else 0x80
            if high < 0x80:
                length = length & 0x7F | high << 7
                at += 1
            else:
                length, at = varint(content, at - 1)
        stop = at + length
    elif kind == VARINT:
        stop = varint(content, at)[1]
    elif kind in (FIXED64, FIXED32):
        stop = at + (8 if kind == FIXED64 else 4)
    else:
        raise DamagedMessage(f"has a field of the unknown kind {kind}")
    if stop > end or tag < 8:
        raise DamagedMessage("ends inside a field" if stop > end else "has a field without a number")
    return tag, at, stop


def parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Give the values of a field that holds bytes, texts or messages."""
    for tag, value in _fields(message):
        if tag == wanted << 3 | BYTES:
            yield value


def entries(message: memoryview, wanted: int) -> Iterator[tuple[str, memoryview]]:
    """Give keys and values of a field that is a map from texts to messages."""
    for part in parts(message, wanted):
        key, (content, begin, end) = entry(part, 0, len(part))
        yield key, content[begin:end]


def entry(content: memoryview, at: int, end: int) -> tuple[str, Span]:
    """Key and value of an entry of such a map."""
    key, value = "", None
    count = 0
    while at < end:
        tag, begin, at = field(content, at, end)
        count += 1
        check_count(count)
        if tag == _KEY:
            key = str(content[begin:at], "utf-8", "replace")
        elif tag == _VALUE:
            value = (content, begin, at) if value is None else merged(value, (content, begin, at))
    return key, value or (content, end, end)


def merged(*spans: Span) -> Span:
    """One message out of several that stand for the same field: they mean what they mean joined."""
    joined = b"".join(content[begin:end] for content, begin, end in spans)
    return memoryview(joined), 0, len(joined)


def floats(message: memoryview, wanted: int, dtype: DTypeLike = "<f4") -> NDArray[Any]:
    """The numbers of a repeated field of floats (`<f4`) or doubles (`<f8`), packed or one by one.

    Returns:
        `[count]`, in the memory of the message where it can be.
    """
    single = FIXED32 if np.dtype(dtype).itemsize == 4 else FIXED64
    found = [value for tag, value in _fields(message) if tag in (wanted << 3 | BYTES, wanted << 3 | single)]
    return packed(found[0] if len(found) == 1 else memoryview(b"".join(found)), dtype)


def packed(content: memoryview, dtype: DTypeLike) -> NDArray[Any]:
    """The numbers that lie side by side, without a copy."""
    try:
        numbers: NDArray[Any] = np.frombuffer(content, dtype)
    except ValueError as error:
        raise DamagedMessage("ends inside a number") from error
    if len(numbers) > MOST_NUMBERS:
        raise DamagedMessage(f"has more than {MOST_NUMBERS:,} numbers in one field")
    return numbers


def integers(message: memoryview, wanted: int, *, bits: int = 64, signed: bool = True) -> list[int]:
    """The numbers of a repeated field of integers of so many bits, packed or one by one."""
    found: list[int] = []
    for tag, value in _fields(message):
        at = 0 if tag in (wanted << 3 | BYTES, wanted << 3 | VARINT) else len(value)
        while at < len(value):
            one, at = varint(value, at)
            found.append(one & (1 << bits) - 1)
            if len(found) > MOST_NUMBERS:
                raise DamagedMessage(f"has more than {MOST_NUMBERS:,} numbers in one field")
    return [one - (1 << bits) if signed and one >> bits - 1 else one for one in found]


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """The integer at a place, and the place after it.

    Raises:
        DamagedMessage: the bytes end inside it, or it is longer than 10 bytes.
    """
    value, end = 0, len(content)
    if end - at >= 2:
        # Nearly all have one or two bytes.
        low, high = content[at], content[at + 1]
        if low < 0x80:
            return low, at + 1
        if high < 0x80:
            return low & 0x7F | high << 7, at + 2
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise DamagedMessage("ends inside a number")


def check_count(fields: int) -> None:
    """Refuse a message with more fields than any record has; they would take many times the memory of the message.

    Raises:
        DamagedMessage: there are more than `MOST_FIELDS`.
    """
    if fields > MOST_FIELDS:
        raise DamagedMessage(f"has more than {MOST_FIELDS:,} fields in one message")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    at, end, count = 0, len(message), 0
    while at < end:
        tag, begin, at = field(message, at, end)
        count += 1
        check_count(count)
        yield tag, message[begin:at]
