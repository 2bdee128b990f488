"""How are JSON Lines and CSV cut out of a stream and understood?"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from finetune.data.columns import Columns, choose_columns, choose_positions
from finetune.data.delimited import CSV_DELIMITERS, TSV_DELIMITERS, long_fields
from finetune.data.header import find_header
from finetune.data.label_names import label_names
from finetune.data.streams.beginning import look_ahead
from finetune.data.streams.lines import BYTE_ORDER_MARK, read_lines, read_rows
from finetune.data.streams.named_fields import Decoded, Wanted
from finetune.data.streams.window import DamagedStream, Window
from finetune.data.text_table import texts_of

Sample = tuple[memoryview, ...]
_DECODER = json.JSONDecoder()
_GLUE = b"}{"


class JsonLinesCodec:
    """A JSON object per line; objects of which the last line had no end are glued to the next, which is seen."""

    def __init__(self, wanted: Wanted, where: str) -> None:
        """Look at nothing yet.

        Args:
            wanted: with the columns that the user names.
            where: the channel, for messages.
        """
        self._wanted = wanted
        self._where = where
        self._columns: Columns | None = None

    def cut(self, window: Window) -> Iterator[Sample]:
        """One line for each sample; the first ones tell the columns, since an object may lack some."""
        texts: Iterator[bytes] = (text for line in read_lines(window) for text in _objects(bytes(line)))
        if self._columns is None:
            first, texts = look_ahead(texts)
            self._columns = self._choose(first)
        for text in texts:
            yield (memoryview(text),)

    def decode(self, sample: Sample) -> Decoded:
        """Label and texts."""
        try:
            value = json.loads(bytes(sample[0]))
        except RecursionError as error:
            raise ValueError("is not JSON (nested too deeply)") from error
        if not isinstance(value, dict) or self._columns is None:
            raise ValueError("is not a JSON object")
        labels = label_names(value.get(self._columns.label), multi_label=self._wanted.spec.multi_label)
        return Decoded(texts_of([value.get(name) for name in self._columns.texts]), labels)

    def _choose(self, texts: Iterable[bytes]) -> Columns | None:
        names: dict[str, None] = {}
        for text in texts:
            with suppress(ValueError, RecursionError):  # Who decodes it says what is wrong with it.
                value = json.loads(text)
                names |= dict.fromkeys(value) if isinstance(value, dict) else {}
        return choose_columns(tuple(names), self._wanted.spec, self._where) if names else None


class DelimitedCodec:
    """CSV or TSV; the first rows tell delimiter and columns, and rows that repeat a header are passed over."""

    def __init__(self, wanted: Wanted, where: str, warn: Callable[[str], None], *, tabs: bool) -> None:
        """Look at nothing yet.

        Args:
            wanted: with the columns that the user names.
            where: the channel, for messages.
            warn: told what the user should know of the header.
            tabs: whether fields are divided by tabs, and lines are rows whatever quotation marks they hold.
        """
        self._wanted = wanted
        self._where = where
        self._warn = warn
        self._tabs = tabs
        self._delimiter = ""
        self._header: bytes | None = None
        self._count = 0
        self._positions: tuple[int, ...] = ()

    def cut(self, window: Window) -> Iterator[Sample]:
        """One row for each sample."""
        rows = self._rows(window)
        if not self._delimiter:
            begin = window.offset
            first, rows = look_ahead(rows)
            if first:
                self._look(first, begin)
        for row in rows:
            if row != self._header:
                yield (memoryview(row),)

    def _rows(self, window: Window) -> Iterator[bytes]:
        for view in read_lines(window) if self._tabs else read_rows(window):
            row = bytes(view).removeprefix(BYTE_ORDER_MARK).rstrip(b"\r")
            if row.strip():
                yield row

    def decode(self, sample: Sample) -> Decoded:
        """Label and texts."""
        cells = self._cells(bytes(sample[0]).decode("utf-8"), self._delimiter)
        if len(cells) != self._count:
            raise ValueError(f"has {len(cells)} columns instead of {self._count}; quote texts that hold a delimiter")
        label, *texts = (cells[at] for at in self._positions)
        return Decoded(texts_of(texts), label_names(label, multi_label=self._wanted.spec.multi_label))

    def _look(self, rows: Sequence[bytes], begin: int) -> None:
        delimiters = TSV_DELIMITERS if self._tabs else CSV_DELIMITERS
        try:
            text = rows[0].decode("utf-8")
            self._delimiter = next((one for one in delimiters if len(self._cells(text, one)) > 1), delimiters[-1])
            first = [cell.strip() for cell in self._cells(text, self._delimiter)]
        except UnicodeDecodeError as error:
            raise DamagedStream(f"is not UTF-8 ({error.reason})", begin) from error
        except ValueError as error:
            raise DamagedStream(str(error), begin) from error
        self._count = len(first)
        spec = self._wanted.spec
        header = find_header(first, self._understood(row for row in rows[1:] if row != rows[0]), spec)
        if header.remark:
            self._warn(f"{self._where}: {header.remark}")
        self._header = rows[0] if header.is_there else None
        if header.is_there and header.chooses:
            columns, names = choose_columns(first, spec, self._where), list(first)
        else:
            columns, names = choose_positions(len(first), spec, self._where), [str(at) for at in range(len(first))]
        self._positions = tuple(names.index(name) for name in (columns.label, *columns.texts))

    def _understood(self, rows: Iterable[bytes]) -> Iterator[Sequence[str]]:
        for row in rows:
            with suppress(ValueError):  # Who decodes it says what is wrong with it.
                yield self._cells(row.decode("utf-8"), self._delimiter)

    def _cells(self, text: str, delimiter: str) -> Sequence[str]:
        if self._tabs:
            return [_unquoted(cell) for cell in text.split(delimiter)]
        try:
            with long_fields():
                return next(csv.reader([text], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise ValueError(f"is not quoted as CSV has to be ({error})") from error


def _objects(line: bytes) -> Iterator[bytes]:
    line = line.strip().removeprefix(BYTE_ORDER_MARK)
    if _GLUE not in line and BYTE_ORDER_MARK not in line:
        if line:
            yield line
        return
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        yield line
        return
    while text := text.lstrip(" \t\r\ufeff"):
        try:
            _, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            end = len(text)
        yield text[:end].encode()
        text = text[end:]


def _unquoted(cell: str) -> str:
    inside = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if whole else cell
