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

MAX_FIELDS = 1 << 16
MAX_NUMBERS = 1 << 22
"""Maximum count of numbers in one field; each becomes a 32-byte object."""

_KEY, _VALUE = 1 << 3 | BYTES, 2 << 3 | BYTES


class DamagedMessage(ValueError):  # noqa: N818 - the name says what is damaged
    """The bytes are not a valid protocol buffer message."""


def read_field(content: memoryview, position: int, end: int) -> tuple[int, int, int]:
    """Parse the field that starts at an offset.

    Args:
        content: buffer that contains the message.
        position: offset of the field, less than `end`.
        end: end offset of the message.

    Returns:
        The tag (8 * field number + wire type) and the start and end offsets of the value.

    Raises:
        DamagedMessage: if the message ends inside the field, or the field has an unknown wire type or no number.
    """
    # Inlined, since most tags take one byte and most lengths one or two: calling `read_varint` would take half of the
    # time.
    tag = content[position]
    position += 1
    if tag >= 0x80:
        tag, position = read_varint(content, position - 1)
    kind = tag & 7
    if kind == BYTES:
        length = content[position] if position < end else 0x80
        position += 1
        if length >= 0x80:
            high = content[position] if position < end else 0x80
            if high < 0x80:
                length = length & 0x7F | high << 7
                position += 1
            else:
                length, position = read_varint(content, position - 1)
        stop = position + length
    elif kind == VARINT:
        stop = read_varint(content, position)[1]
    elif kind in (FIXED64, FIXED32):
        stop = position + (8 if kind == FIXED64 else 4)
    else:
        raise DamagedMessage(f"has a field of unknown wire type {kind}")
    if stop > end or tag < 8:
        raise DamagedMessage("ends inside a field" if stop > end else "has a field with number 0")
    return tag, position, stop


def read_values(message: memoryview, field_number: int) -> Iterator[memoryview]:
    """Yield the values of a length-delimited field (bytes, strings or messages)."""
    for tag, value in _fields(message):
        if tag == field_number << 3 | BYTES:
            yield value


def read_map(message: memoryview, field_number: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the keys and values of a map field from strings to messages."""
    for part in read_values(message, field_number):
        key, (content, start, end) = read_map_entry(part, 0, len(part))
        yield key, content[start:end]


def read_map_entry(content: memoryview, position: int, end: int) -> tuple[str, Span]:
    """Return the key and value of a map entry."""
    key, value = "", None
    count = 0
    while position < end:
        tag, start, position = read_field(content, position, end)
        count += 1
        check_field_count(count)
        if tag == _KEY:
            key = str(content[start:position], "utf-8", "replace")
        elif tag == _VALUE:
            value = (content, start, position) if value is None else merge_spans(value, (content, start, position))
    return key, value or (content, end, end)


def merge_spans(*spans: Span) -> Span:
    """Merge several messages of the same field; by the format, this is their concatenation."""
    joined = b"".join(content[start:end] for content, start, end in spans)
    return memoryview(joined), 0, len(joined)


def read_floats(message: memoryview, field_number: int, dtype: DTypeLike = "<f4") -> NDArray[Any]:
    """Return the numbers of a repeated float (`<f4`) or double (`<f8`) field, packed or unpacked.

    Returns:
        `[count]`, sharing the message's memory if possible.
    """
    single = FIXED32 if np.dtype(dtype).itemsize == 4 else FIXED64
    values = [
        value for tag, value in _fields(message) if tag in (field_number << 3 | BYTES, field_number << 3 | single)
    ]
    return read_packed(values[0] if len(values) == 1 else memoryview(b"".join(values)), dtype)


def read_packed(content: memoryview, dtype: DTypeLike) -> NDArray[Any]:
    """Return packed numbers without copying them."""
    try:
        numbers: NDArray[Any] = np.frombuffer(content, dtype)
    except ValueError as error:
        raise DamagedMessage("ends inside a number") from error
    if len(numbers) > MAX_NUMBERS:
        raise DamagedMessage(f"has more than {MAX_NUMBERS:,} numbers in one field")
    return numbers


def read_integers(message: memoryview, field_number: int, *, bits: int = 64, signed: bool = True) -> list[int]:
    """Return the numbers of a repeated integer field of the given bit width, packed or unpacked."""
    values: list[int] = []
    for tag, value in _fields(message):
        position = 0 if tag in (field_number << 3 | BYTES, field_number << 3 | VARINT) else len(value)
        while position < len(value):
            number, position = read_varint(value, position)
            values.append(number & (1 << bits) - 1)
            if len(values) > MAX_NUMBERS:
                raise DamagedMessage(f"has more than {MAX_NUMBERS:,} numbers in one field")
    return [number - (1 << bits) if signed and number >> bits - 1 else number for number in values]


def read_varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the varint at an offset and the offset after it.

    Raises:
        DamagedMessage: if the buffer ends inside the varint, or it is longer than 10 bytes.
    """
    value, end = 0, len(content)
    if end - position >= 2:
        # Fast path: nearly all varints have one or two bytes.
        low, high = content[position], content[position + 1]
        if low < 0x80:
            return low, position + 1
        if high < 0x80:
            return low & 0x7F | high << 7, position + 2
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise DamagedMessage("ends inside a number")


def check_field_count(fields: int) -> None:
    """Refuse messages with more fields than any record has; they would take many times the memory of the message.

    Raises:
        DamagedMessage: if there are more than `MAX_FIELDS` fields.
    """
    if fields > MAX_FIELDS:
        raise DamagedMessage(f"has more than {MAX_FIELDS:,} fields in one message")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    position, end, count = 0, len(message), 0
    while position < end:
        tag, start, position = read_field(message, position, end)
        count += 1
        check_field_count(count)
        yield tag, message[start:position]
