"""Codecs for JSON and delimited text streams, with the same parsing as for files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions, RawRecord
from finetune.data.framing.lines import line_end, read_lines
from finetune.data.framing.lookahead import look_ahead
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.label_parsing import SpellingCheck, label_names
from finetune.data.readers.file_kinds import FIRST_BYTES, non_table_kind, rejection_reason
from finetune.data.tables.columns import Columns
from finetune.data.tables.delimited import UnclosedQuote
from finetune.data.tables.dialect import DelimitedFormat, FirstLines, infer_format
from finetune.data.tables.json_objects import choose_keys, json_objects, parse_object
from finetune.data.tables.reader import parse_texts


class JsonLinesCodec:
    """Codec for JSON objects: one per line, concatenated where an S3 object lacks a final newline, or in arrays."""

    def __init__(self, options: DecodeOptions, where: str, warn: Callable[[str], None]) -> None:
        """Create the codec without reading any input.

        Args:
            options: fields to extract, with the column names set by the user.
            where: channel name, for messages.
            warn: callback for warnings.
        """
        self._options = options
        self._where = where
        self._spellings = SpellingCheck(lambda message: warn(f"{where}: {message}"))
        self._columns: Columns | None = None

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one object per record; columns are chosen from the first objects, since an object may lack some keys.

        Raises:
            DataError: if a single object contains all records.
            UserError: if the keys of the label and the texts are ambiguous.
        """
        _check_kind(window)
        lines: Iterator[bytes] = map(bytes, read_lines(window, line_end(window)))
        if self._columns is None:
            first, lines = look_ahead(lines)
            self._columns = choose_keys(first, self._options.spec, self._where, self._options.shared)
        for _, text in json_objects(lines):
            yield (memoryview(text),)

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Return the label and the texts."""
        value = parse_object(bytes(record[0]))
        if self._columns is None:
            raise ValueError("is not a JSON object")
        texts = parse_texts([value.get(name) for name in self._columns.texts])
        return _label_texts(texts, value.get(self._columns.label), self._options, self._spellings)


class DelimitedCodec:
    """Codec for CSV, TSV or `__label__` lines; delimiter, header and columns are inferred from the first rows."""

    def __init__(self, options: DecodeOptions, where: str, warn: Callable[[str], None], *, tabs: bool) -> None:
        """Create the codec without reading any input.

        Args:
            options: fields to extract, with the column names set by the user.
            where: channel name, for messages.
            warn: callback for warnings.
            tabs: whether the content type specifies tab-separated cells.
        """
        self._options = options
        self._where = where
        self._tabs = tabs
        self._warn: Callable[[str], None] = lambda message: warn(f"{where}: {message}")
        self._spellings = SpellingCheck(self._warn)
        self._form: DelimitedFormat | None = None

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one row per record; repeated headers are skipped, since each S3 object has one.

        Raises:
            DamagedStream: if the first row is not UTF-8, or a quoted field is not closed.
            DataError: if the first rows have inconsistent columns.
            UserError: if the delimiter, header or columns are ambiguous.
        """
        _check_kind(window)
        start, end = window.offset, line_end(window)
        lines: Iterator[bytes] = map(bytes, read_lines(window, end))
        if self._form is None:
            first, lines = look_ahead(lines)
            try:
                self._form = infer_format(
                    FirstLines(first, end),
                    self._options.spec,
                    self._where,
                    tabs=self._tabs,
                    shared=self._options.shared,
                )
            except UnicodeDecodeError as error:
                raise DamagedStream(f"is not UTF-8 ({error.reason}); convert it to UTF-8", start) from error
            if self._form is not None and self._form.warning:
                self._warn(self._form.warning)
        if self._form is None:
            return
        try:
            for row in self._form.records(lines, self._warn):
                yield (memoryview(row.content),)
        except UnclosedQuote as error:
            raise DamagedStream(f"{error} (line {error.line})", start + error.offset) from error

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Return the label and the texts."""
        if self._form is None:
            raise ValueError("cannot be parsed, since the columns of the table are not known yet")
        label, *texts = self._form.cells(bytes(record[0]))
        return _label_texts(parse_texts(texts), label, self._options, self._spellings)


def _label_texts(
    texts: tuple[str, ...], label: object, options: DecodeOptions, spellings: SpellingCheck
) -> DecodedRecord:
    spec = options.spec
    labels = label_names(label, multi_label=spec.multi_label, class_names=spec.class_names, spellings=spellings)
    return DecodedRecord(texts, labels)


def _check_kind(window: Window) -> None:
    window.reach(FIRST_BYTES)
    file_kind = non_table_kind(bytes(window.view[window.position : window.position + FIRST_BYTES]))
    if file_kind is not None:
        raise DamagedStream(rejection_reason(file_kind), window.offset)
