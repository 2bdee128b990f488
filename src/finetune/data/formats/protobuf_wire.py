"""Minimal parser for the protocol buffer wire format.

The protobuf version compatible with the other packages of the image decodes in pure Python here, one field and one
number at a time. Records need only a few fields, and their packed numbers can be read by NumPy directly. Nested
messages are parsed in place, since a view or a generator per message would dominate the run time.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Span = tuple[memoryview, int, int]
"""A buffer with the start and end offsets of a message."""

MOST_FIELDS = 1 << 16
MOST_NUMBERS = 1 << 22
"""Maximum count of numbers in one field; each becomes a 32-byte object."""

_KEY, _VALUE = 1 << 3 | BYTES, 2 << 3 | BYTES


class DamagedMessage(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The bytes are not a valid protocol buffer message."""


def field(content: memoryview, at: int, end: int) -> tuple[int, int, int]:
    """Parse the field that starts at an offset.

    Args:
        content: buffer that contains the message.
        at: offset of the field, less than `end`.
        end: end offset of the message.

    Returns:
        The tag (8 * field number + wire type) and the start and end offsets of the value.

    Raises:
        DamagedMessage: if the message ends inside the field, or the field has an unknown wire type or no number.
    """
    # Inlined, since most tags take one byte and most lengths one or two: calls to `varint` would take half of the time.
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
    """Yield the values of a length-delimited field (bytes, strings or messages)."""
    for tag, value in _fields(message):
        if tag == wanted << 3 | BYTES:
            yield value


def entries(message: memoryview, wanted: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the keys and values of a map field from strings to messages."""
    for part in parts(message, wanted):
        key, (content, begin, end) = entry(part, 0, len(part))
        yield key, content[begin:end]


def entry(content: memoryview, at: int, end: int) -> tuple[str, Span]:
    """Return the key and value of a map entry."""
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
    """Merge several messages of the same field; by the format, this is their concatenation."""
    joined = b"".join(content[begin:end] for content, begin, end in spans)
    return memoryview(joined), 0, len(joined)


def floats(message: memoryview, wanted: int, dtype: DTypeLike = "<f4") -> NDArray[Any]:
    """Return the numbers of a repeated float (`<f4`) or double (`<f8`) field, packed or unpacked.

    Returns:
        `[count]`, sharing the message's memory if possible.
    """
    single = FIXED32 if np.dtype(dtype).itemsize == 4 else FIXED64
    found = [value for tag, value in _fields(message) if tag in (wanted << 3 | BYTES, wanted << 3 | single)]
    return packed(found[0] if len(found) == 1 else memoryview(b"".join(found)), dtype)


def packed(content: memoryview, dtype: DTypeLike) -> NDArray[Any]:
    """Return packed numbers without copying them."""
    try:
        numbers: NDArray[Any] = np.frombuffer(content, dtype)
    except ValueError as error:
        raise DamagedMessage("ends inside a number") from error
    if len(numbers) > MOST_NUMBERS:
        raise DamagedMessage(f"has more than {MOST_NUMBERS:,} numbers in one field")
    return numbers


def integers(message: memoryview, wanted: int, *, bits: int = 64, signed: bool = True) -> list[int]:
    """Return the numbers of a repeated integer field of the given bit width, packed or unpacked."""
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
    """Return the varint at an offset and the offset after it.

    Raises:
        DamagedMessage: if the buffer ends inside the varint, or it is longer than 10 bytes.
    """
    value, end = 0, len(content)
    if end - at >= 2:
        # Fast path: nearly all varints have one or two bytes.
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
    """Refuse messages with more fields than any record has; they would take many times the memory of the message.

    Raises:
        DamagedMessage: if there are more than `MOST_FIELDS` fields.
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
