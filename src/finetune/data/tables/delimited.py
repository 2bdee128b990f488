"""Splits delimited text (CSV, TSV, `__label__` lines) into rows and cells, the same for files and for streams.

Quotation marks follow RFC 4180: a field that begins with one ends with one and may hold delimiters, line ends and
doubled marks. A mark inside an unquoted field is a character.
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
"""Begins each label in the files of BlazingText and fastText."""

LONGEST_ROW = 1 << 26
"""Bytes. A longer row is taken for a quotation mark that is never closed."""
MOST_COLUMNS = 100_000

_LINE_BYTES = 100
"""Memory of a line beside its content."""

_CLOSING = re.compile(rb'(?:[^"]++|"")*+"')
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_LABELS = re.compile(rf"(?:\s*{LABEL_PREFIX}\S+)+(?:\s|$)")
_STRAY = (
    "has a quotation mark that does not end its field; put a field with quotation marks, delimiters or line breaks in"
    " quotation marks, and double those inside it"
)
_CARRIAGE_RETURN = "has a carriage return outside of quotation marks"


class UnclosedQuote(ValueError):  # noqa: N818 - names the fault
    """A quoted field does not end before the table does.

    Attributes:
        line: on which the row begins, from 1.
        offset: of the row, in bytes from the first line.
    """

    def __init__(self, line: int, offset: int) -> None:
        super().__init__("has a quotation mark that is not closed; close it, or see whether the file is cut off")
        self.line = line
        self.offset = offset


class RawRow(NamedTuple):
    """One row before it is split into cells.

    Attributes:
        line: on which it begins, from 1.
        offset: of its first byte, counted from the first line.
        content: without the line end.
    """

    line: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """How rows and cells are divided.

    Attributes:
        delimiter: one character between cells; a space for `labels`.
        kind: `quoted` as RFC 4180 has it; `plain` where every line is a row and marks are characters unless they
            surround a whole cell; `labels` for lines that begin with `__label__`.
        end: of a line.
    """

    delimiter: str
    kind: Literal["quoted", "plain", "labels"] = "quoted"
    end: bytes = b"\n"

    def is_blank(self, row: bytes) -> bool:
        """Whether a row holds nothing."""
        return not row.strip() and self.delimiter.encode() not in row


def cut_rows(lines: Iterable[bytes], dialect: Dialect, delimiter_line: bytes = b"") -> Iterator[RawRow]:
    """Join the lines of quoted fields; blank rows and byte order marks are left out.

    A row whose quotation marks are misplaced is given as its first line, which `cells_of` refuses; the next row begins
    with the line after it, so that a stray mark costs one row.

    Args:
        lines: without their ends.
        dialect: of the table.
        delimiter_line: line that names the delimiter and is no row.

    Raises:
        UnclosedQuote: a quoted field does not end, or is longer than `LONGEST_ROW`.
    """
    delimiter = dialect.delimiter.encode()
    numbered = _numbered(lines, delimiter_line)
    waiting: deque[RawRow] = deque()
    while (row := waiting.popleft() if waiting else next(numbered, None)) is not None:
        taken = [row]
        if dialect.kind == "quoted" and b'"' in row.content:
            try:
                _take_open_lines(taken, waiting, numbered, delimiter)
            except _StrayQuoteError:
                waiting.extendleft(reversed(taken[1:]))
                taken = [row]
        content = dialect.end.join(part.content for part in taken).rstrip(b"\r")
        if not dialect.is_blank(content):
            yield RawRow(row.line, row.offset, content)


def cells_of(row: str, dialect: Dialect) -> list[object]:
    """Split a row into cells: texts, or for `labels` the labels and the text.

    Raises:
        ValueError: its quotation marks are misplaced, or it has no label where lines have to begin with one.
    """
    if dialect.kind == "labels":
        return _labels_and_text(row)
    if row.count(dialect.delimiter) > MOST_COLUMNS and (dialect.kind == "plain" or '"' not in row):
        raise ValueError(f"has more than {MOST_COLUMNS:,} columns")
    if dialect.kind == "plain":
        return [_unquoted(cell) for cell in row.split(dialect.delimiter)]
    return list(_quoted_cells(row, dialect.delimiter))


class _StrayQuoteError(ValueError):
    pass


def _numbered(lines: Iterable[bytes], delimiter_line: bytes) -> Iterator[RawRow]:
    offset = 0
    for number, line in enumerate(lines, start=1):
        bare = line.removeprefix(BYTE_ORDER_MARK)
        is_row = not delimiter_line or bare.rstrip(b"\r") != delimiter_line.rstrip(b"\r")
        yield RawRow(number, offset + len(line) - len(bare), bare if is_row else b"")
        offset += len(line) + 1


def _take_open_lines(taken: list[RawRow], waiting: deque[RawRow], numbered: Iterator[RawRow], delimiter: bytes) -> None:
    first, size = taken[0], len(taken[0].content)
    is_open = _ends_open(first.content, delimiter, is_open=False)
    while is_open:
        row = waiting.popleft() if waiting else next(numbered, None)
        if row is None or size > LONGEST_ROW:
            raise UnclosedQuote(first.line, first.offset)
        taken.append(row)
        size += len(row.content) + _LINE_BYTES
        is_open = _ends_open(row.content, delimiter, is_open=True)


def _ends_open(line: bytes, delimiter: bytes, *, is_open: bool) -> bool:
    """Whether a quoted field goes on in the next line."""
    at = 0
    while True:
        if not is_open and line[at : at + 1] != b'"':
            stop = line.find(delimiter, at)
            if stop < 0:
                return False
            at = stop + 1
            continue
        closing = _CLOSING.match(line, at if is_open else at + 1)
        if closing is None:
            return True
        is_open, at = False, closing.end() + 1
        after = line[closing.end() : at]
        if after != delimiter:
            if after and line[closing.end() :] != b"\r":
                raise _StrayQuoteError
            return False


def _quoted_cells(row: str, delimiter: str) -> Sequence[str]:
    if '"' not in row:
        if "\r" in row:
            raise ValueError(_CARRIAGE_RETURN)
        return row.split(delimiter)
    cells: list[str] = []
    at = 0
    while True:
        if row.startswith('"', at):
            found = _QUOTED.match(row, at)
            if found is None or row[found.end() : found.end() + 1] not in ("", delimiter):
                raise ValueError(_STRAY)
            cells.append(found[1].replace('""', '"'))
            at = found.end()
        else:
            stop = row.find(delimiter, at)
            stop = len(row) if stop < 0 else stop
            if row.find("\r", at, stop) >= 0:
                raise ValueError(_CARRIAGE_RETURN)
            cells.append(row[at:stop])
            at = stop
        if at == len(row):
            return cells
        at += 1


def _unquoted(cell: str) -> str:
    found = _QUOTED.fullmatch(cell)
    return cell if found is None else found[1].replace('""', '"')


def _labels_and_text(row: str) -> list[object]:
    found = _LABELS.match(row)
    if found is None:
        raise ValueError(f"does not begin with {LABEL_PREFIX} and the name of a class")
    text = row[found.end() :].strip()
    later = [word for word in text.split() if word.startswith(LABEL_PREFIX)]
    if later:
        text = " ".join(word for word in text.split() if not word.startswith(LABEL_PREFIX))
    labels = [word.removeprefix(LABEL_PREFIX) for word in (*found[0].split(), *later)]
    return [labels[0] if len(labels) == 1 else labels, text]
