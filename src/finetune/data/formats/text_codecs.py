"""Cuts JSON and delimited text out of a stream and decodes their records, as files are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from finetune.data.formats.named_fields import Decoded, Wanted
from finetune.data.framing.lines import line_end, read_lines
from finetune.data.framing.lookahead import look_ahead
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.label_parsing import Spellings, label_names
from finetune.data.readers.file_kinds import FIRST_BYTES, foreign_kind, refusal
from finetune.data.tables.columns import Columns
from finetune.data.tables.delimited import UnclosedQuote
from finetune.data.tables.dialect import DelimitedForm, FirstLines, find_form
from finetune.data.tables.json_objects import choose_keys, json_objects, parse_object
from finetune.data.tables.reader import texts_of

Sample = tuple[memoryview, ...]


class _Layout(Protocol):
    """What a codec needs of `StreamLayout`, which names this module's codecs and cannot be imported."""

    @property
    def where(self) -> str: ...
    @property
    def warn(self) -> Callable[[str], None]: ...


class JsonLinesCodec:
    """JSON objects: one per line, glued where the last line of an object of S3 had no end, or in arrays."""

    def __init__(self, wanted: Wanted, layout: _Layout) -> None:
        """Look at nothing yet.

        Args:
            wanted: with the columns that the user names.
            layout: name of the channel, and who is told what the user should know.
        """
        self._wanted = wanted
        self._where = layout.where
        self._spellings = Spellings(lambda remark: layout.warn(f"{layout.where}: {remark}"))
        self._columns: Columns | None = None

    def cut(self, window: Window) -> Iterator[Sample]:
        """One object for each sample; the first ones tell the columns, since an object may lack some.

        Raises:
            DataError: one object holds all records.
            UserError: it is not plain which key holds what.
        """
        _check_kind(window)
        lines: Iterator[bytes] = map(bytes, read_lines(window, line_end(window)))
        if self._columns is None:
            first, lines = look_ahead(lines)
            self._columns = choose_keys(first, self._wanted.spec, self._where, self._wanted.shared)
        for _, text in json_objects(lines):
            yield (memoryview(text),)

    def decode(self, sample: Sample) -> Decoded:
        """Label and texts."""
        value = parse_object(bytes(sample[0]))
        if self._columns is None:
            raise ValueError("is not a JSON object")
        texts = texts_of([value.get(name) for name in self._columns.texts])
        return _decoded(texts, value.get(self._columns.label), self._wanted, self._spellings)


class DelimitedCodec:
    """CSV, TSV or `__label__` lines; the first rows tell delimiter, header and columns."""

    def __init__(self, wanted: Wanted, layout: _Layout, *, tabs: bool) -> None:
        """Look at nothing yet.

        Args:
            wanted: with the columns that the user names.
            layout: name of the channel, and who is told what the user should know.
            tabs: whether the content type says that tabs divide the cells.
        """
        self._wanted = wanted
        self._where = layout.where
        self._tabs = tabs
        self._warn: Callable[[str], None] = lambda remark: layout.warn(f"{layout.where}: {remark}")
        self._spellings = Spellings(self._warn)
        self._form: DelimitedForm | None = None

    def cut(self, window: Window) -> Iterator[Sample]:
        """One row for each sample; rows that repeat the header are passed over, as objects of S3 have one each.

        Raises:
            DamagedStream: the first row is not UTF-8, or a quoted field does not end.
            DataError: the first rows are not divided alike.
            UserError: delimiter, header or columns could be others.
        """
        _check_kind(window)
        begin, end = window.offset, line_end(window)
        lines: Iterator[bytes] = map(bytes, read_lines(window, end))
        if self._form is None:
            first, lines = look_ahead(lines)
            try:
                self._form = find_form(
                    FirstLines(first, end), self._wanted.spec, self._where, tabs=self._tabs, shared=self._wanted.shared
                )
            except UnicodeDecodeError as error:
                raise DamagedStream(f"is not UTF-8 ({error.reason})", begin) from error
            if self._form is not None and self._form.remark:
                self._warn(self._form.remark)
        if self._form is None:
            return
        try:
            for row in self._form.records(lines, self._warn):
                yield (memoryview(row.content),)
        except UnclosedQuote as error:
            raise DamagedStream(f"{error} (line {error.line})", begin + error.offset) from error

    def decode(self, sample: Sample) -> Decoded:
        """Label and texts."""
        if self._form is None:
            raise ValueError("belongs to a table of which no row was seen")
        label, *texts = self._form.cells(bytes(sample[0]))
        return _decoded(texts_of(texts), label, self._wanted, self._spellings)


def _decoded(texts: tuple[str, ...], label: object, wanted: Wanted, spellings: Spellings) -> Decoded:
    spec = wanted.spec
    labels = label_names(label, multi_label=spec.multi_label, class_names=spec.class_names, spellings=spellings)
    return Decoded(texts, labels)


def _check_kind(window: Window) -> None:
    window.reach(FIRST_BYTES)
    kind = foreign_kind(bytes(window.view[window.at : window.at + FIRST_BYTES]))
    if kind is not None:
        raise DamagedStream(refusal(kind), window.offset)
