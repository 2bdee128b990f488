"""Splits delimited text (CSV, TSV, `__label__` lines) into rows and cells, for both files and streams.

Quoting follows RFC 4180: a field that begins with a quotation mark ends with one and may contain delimiters, line ends
and doubled marks. A quotation mark inside an unquoted field is an ordinary character.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DELIMITERS = ",;\t|"
LABEL_PREFIX = "__label__"
"""Label prefix in BlazingText and fastText files."""

MAX_ROW_BYTES = 1 << 26
"""Maximum row length in bytes. A longer row indicates an unclosed quotation mark."""
MAX_COLUMNS = 100_000

_LINE_BYTES = 100
"""Memory overhead of a line in bytes."""

_CLOSING_QUOTE = re.compile(rb'(?:[^"]++|"")*+"')
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_LABELS = re.compile(rf"(?:\s*{LABEL_PREFIX}\S+)+(?:\s|$)")
_STRAY_QUOTE = (
    "has a quotation mark in the wrong place; enclose fields that contain quotation marks, delimiters or line breaks in"
    " quotation marks, and double the quotation marks inside"
)
_CARRIAGE_RETURN = "has a carriage return outside quotation marks"


class UnclosedQuote(ValueError):  # noqa: N818 - names the fault
    """A quoted field is not closed before the end of the table.

    Attributes:
        line: line on which the row begins, from 1.
        offset: offset of the row in bytes from the first line.
    """

    def __init__(self, line: int, offset: int) -> None:
        super().__init__("has an unclosed quotation mark; close it, or check whether the file is truncated")
        self.line = line
        self.offset = offset


class RawRow(NamedTuple):
    """One row before it is split into cells.

    Attributes:
        line: line on which the row begins, from 1.
        offset: offset of its first byte from the first line.
        content: bytes of the row without the line end.
    """

    line: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """Format of rows and cells.

    Attributes:
        delimiter: one character between cells; a space for `labels`.
        kind: `quoted` for RFC 4180; `plain` if every line is a row and quotation marks are ordinary characters unless
            they enclose a whole cell; `labels` for lines that begin with `__label__`.
        end: line end.
    """

    delimiter: str
    kind: Literal["quoted", "plain", "labels"] = "quoted"
    end: bytes = b"\n"

    def is_blank(self, row: bytes) -> bool:
        """Return whether a row is empty."""
        return not row.strip() and self.delimiter.encode() not in row


def split_rows(lines: Iterable[bytes], dialect: Dialect, delimiter_line: bytes = b"") -> Iterator[RawRow]:
    """Join the lines of quoted fields into rows; blank rows and byte order marks are skipped.

    A row with misplaced quotation marks is yielded as its first line, which `split_cells` refuses. The next row begins
    on the following line, so that a stray mark affects only one row.

    Args:
        lines: lines without their line ends.
        dialect: format of the table.
        delimiter_line: line that declares the delimiter and is not a row.

    Raises:
        UnclosedQuote: if a quoted field is not closed, or is longer than `MAX_ROW_BYTES`.
    """
    delimiter = dialect.delimiter.encode()
    numbered_lines = _numbered_lines(lines, delimiter_line)
    pending: deque[RawRow] = deque()
    while (row := pending.popleft() if pending else next(numbered_lines, None)) is not None:
        parts = [row]
        if dialect.kind == "quoted" and b'"' in row.content:
            try:
                _read_continuation_lines(parts, pending, numbered_lines, delimiter)
            except _StrayQuoteError:
                pending.extendleft(reversed(parts[1:]))
                parts = [row]
        content = dialect.end.join(line.content for line in parts).rstrip(b"\r")
        if not dialect.is_blank(content):
            yield RawRow(row.line, row.offset, content)


def split_cells(row: str, dialect: Dialect) -> list[object]:
    """Split a row into cells: texts, or for `labels` the labels and the text.

    Raises:
        ValueError: if quotation marks are misplaced, or a `labels` row has no label.
    """
    if dialect.kind == "labels":
        return _split_labels(row)
    if row.count(dialect.delimiter) > MAX_COLUMNS and (dialect.kind == "plain" or '"' not in row):
        raise ValueError(f"has more than {MAX_COLUMNS:,} columns")
    if dialect.kind == "plain":
        return [_unquote(cell) for cell in row.split(dialect.delimiter)]
    return list(_split_quoted(row, dialect.delimiter))


class _StrayQuoteError(ValueError):
    pass


def _numbered_lines(lines: Iterable[bytes], delimiter_line: bytes) -> Iterator[RawRow]:
    offset = 0
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(BYTE_ORDER_MARK)
        is_row = not delimiter_line or content.rstrip(b"\r") != delimiter_line.rstrip(b"\r")
        yield RawRow(number, offset + len(line) - len(content), content if is_row else b"")
        offset += len(line) + 1


def _read_continuation_lines(
    parts: list[RawRow], pending: deque[RawRow], numbered_lines: Iterator[RawRow], delimiter: bytes
) -> None:
    first, size = parts[0], len(parts[0].content)
    is_open = _continues(first.content, delimiter, is_open=False)
    while is_open:
        row = pending.popleft() if pending else next(numbered_lines, None)
        if row is None or size > MAX_ROW_BYTES:
            raise UnclosedQuote(first.line, first.offset)
        parts.append(row)
        size += len(row.content) + _LINE_BYTES
        is_open = _continues(row.content, delimiter, is_open=True)


def _continues(line: bytes, delimiter: bytes, *, is_open: bool) -> bool:
    """Return whether a quoted field continues on the next line."""
    position = 0
    while True:
        if not is_open and line[position : position + 1] != b'"':
            end = line.find(delimiter, position)
            if end < 0:
                return False
            position = end + 1
            continue
        closing = _CLOSING_QUOTE.match(line, position if is_open else position + 1)
        if closing is None:
            return True
        is_open, position = False, closing.end() + 1
        following = line[closing.end() : position]
        if following != delimiter:
            if following and line[closing.end() :] != b"\r":
                raise _StrayQuoteError
            return False


def _split_quoted(row: str, delimiter: str) -> Sequence[str]:
    if '"' not in row:
        if "\r" in row:
            raise ValueError(_CARRIAGE_RETURN)
        return row.split(delimiter)
    cells: list[str] = []
    position = 0
    while True:
        if row.startswith('"', position):
            match = _QUOTED.match(row, position)
            if match is None or row[match.end() : match.end() + 1] not in ("", delimiter):
                raise ValueError(_STRAY_QUOTE)
            cells.append(match[1].replace('""', '"'))
            position = match.end()
        else:
            end = row.find(delimiter, position)
            end = len(row) if end < 0 else end
            if row.find("\r", position, end) >= 0:
                raise ValueError(_CARRIAGE_RETURN)
            cells.append(row[position:end])
            position = end
        if position == len(row):
            return cells
        position += 1


def _unquote(cell: str) -> str:
    match = _QUOTED.fullmatch(cell)
    return cell if match is None else match[1].replace('""', '"')


def _split_labels(row: str) -> list[object]:
    match = _LABELS.match(row)
    if match is None:
        raise ValueError(f"does not begin with {LABEL_PREFIX} and a class name")
    text = row[match.end() :].strip()
    inner_labels = [word for word in text.split() if word.startswith(LABEL_PREFIX)]
    if inner_labels:
        text = " ".join(word for word in text.split() if not word.startswith(LABEL_PREFIX))
    labels = [word.removeprefix(LABEL_PREFIX) for word in (*match[0].split(), *inner_labels)]
    return [labels[0] if len(labels) == 1 else labels, text]
