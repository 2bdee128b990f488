"""What are the rows of a CSV or TSV file?"""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from finetune.data.text_lines import text_lines
from finetune.errors import DataError

CSV_DELIMITERS = ",;\t"
TSV_DELIMITERS = "\t"

_LONGEST_FIELD = 2**31 - 1
_QUOTED = re.compile(r'"(?:[^"]|"")*"')

Rows = Generator[tuple[int, list[str]], None, None]

_limit_lock = threading.Lock()


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the limit of 131,072 characters per field, which the standard library holds per process, and put it back."""
    with _limit_lock:
        before = csv.field_size_limit(_LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def read_delimited(channel: str, root: Path, key: str, delimiters: str) -> Rows:
    """Give the rows of a file with the line on which each begins; blank lines are passed over.

    The delimiter is the first of `delimiters` that divides the first row. Quotation marks follow RFC 4180, and a stray
    one is an error, since it would swallow rows. Only where tabs divide every line into equally many columns, lines are
    rows and a mark inside a field is a character: such files are mostly written without any quoting.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or is not quoted as CSV has to be.
    """
    delimiter = _delimiter(channel, root, key, delimiters)
    if delimiter == "\t" and _is_plain(channel, root, key):
        for number, text in text_lines(channel, root, key):
            if text.strip("\r\n"):
                yield number, [_unquoted(cell) for cell in text.rstrip("\r\n").split("\t")]
        return
    yield from _quoted_rows(channel, root, key, delimiter)


def _delimiter(channel: str, root: Path, key: str, delimiters: str) -> str:
    for delimiter in delimiters[:-1]:
        if len(_first_row(_quoted_rows(channel, root, key, delimiter))) > 1:
            return delimiter
    return delimiters[-1]


def _first_row(rows: Rows) -> list[str]:
    with closing(rows):
        return next(rows, (1, []))[1]


def _is_plain(channel: str, root: Path, key: str) -> bool:
    counts = {text.count("\t") for _, text in text_lines(channel, root, key) if text.strip("\r\n")}
    return len(counts) <= 1


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _quoted_rows(channel: str, root: Path, key: str, delimiter: str) -> Rows:
    lines = (text for _, text in text_lines(channel, root, key, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begin = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"channel {channel!r}: {key}, line {begin}: {error}; put a field with quotation marks, delimiters or line "
            "breaks in quotation marks, and double those inside it"
        ) from error
