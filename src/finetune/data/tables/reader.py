"""Reads labeled texts from the tables of a channel."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.config.hyperparameters import DataSpec, Task
from finetune.data.label_parsing import SpellingCheck, label_names
from finetune.data.readers.channel_files import Listing, count_endings, ending_of
from finetune.data.record import Record
from finetune.data.tables.columns import Columns, SharedColumns
from finetune.data.tables.dialect import DelimitedForm
from finetune.data.tables.formats import (
    DelimitedTable,
    JsonLinesTable,
    ParquetTable,
    Row,
    Table,
    TableFile,
    check_kind,
)
from finetune.errors import DataError

_log = logging.getLogger(__name__)

TABLE_ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Table format by file ending."""

_VAGUE_ENDINGS = frozenset({"", ".txt", ".text", ".dat", ".data", ".out", ".train", ".valid", ".validation", ".test"})
_OTHER_TABLES = frozenset(
    {".xlsx", ".xls", ".xlsm", ".ods", ".zip", ".arrow", ".feather", ".orc", ".avro", ".h5", ".db", ".sqlite", ".pkl"}
)
_FAULTS_SHOWN = 4
_FILES_TOLD = 20
"""Maximum number of files whose columns are logged individually."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """One or two texts with their classes and location.

    Attributes:
        file: path relative to the channel's folder.
        line: line on which the example begins, from 1.
    """

    file: str
    line: int
    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    spellings: SpellingCheck
    shared: SharedColumns
    examples: list[TextExample] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    form: DelimitedForm | None = None
    files: int = 0


class TextTableReader:
    """Labeled texts held in memory; a `Reader`.

    Attributes:
        channel: name of the channel.
        left_out: key and reason of each row that cannot be used; at most `max_bad_records`.
    """

    task: Task = "text-classification"

    def __init__(self, channel: str, examples: Sequence[TextExample], left_out: Sequence[tuple[str, str]]) -> None:
        """Initialize from the result of `read_text_tables`."""
        self.channel = channel
        self.left_out = tuple(left_out)
        self._examples = tuple(examples)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._examples)

    def key(self, index: int) -> str:
        """File and first line of example `index`."""
        return f"{self._examples[index].file}:{self._examples[index].line}"

    def labels(self, index: int) -> tuple[str, ...]:
        """Classes of example `index`."""
        return self._examples[index].labels

    def clue(self, index: int) -> int:
        """Number of characters of example `index`."""
        return sum(map(len, self._examples[index].texts))

    def read(self, index: int) -> Record:
        """Return example `index` with its one or two texts."""
        example = self._examples[index]
        return Record(self.key(index), example.texts, example.labels)


def read_text_tables(
    listing: Listing, spec: DataSpec, default_format: str | None = None, shared: SharedColumns | None = None
) -> TextTableReader:
    """Read and concatenate all tables of a channel, in name order.

    Files may differ in format and columns, but not in the number of texts per example. Rows without a label or text, or
    with syntax errors, are skipped if there are at most `max_bad_records` of them.

    Args:
        listing: the channel's files.
        spec: columns and label format.
        default_format: `csv`, `tsv`, `jsonl` or `parquet` for files with generic endings, from the channel's content
            type; without it such files are skipped.
        shared: table columns of other channels.

    Raises:
        DataError: if there are no rows, too many rows cannot be used, or a file is damaged or not UTF-8.
        UserError: if the label or text columns cannot be determined.
    """
    formats = {key: table_format(key, default_format) for key in listing.keys}
    others = [key for key, form in formats.items() if form is None]
    if others:
        level = logging.WARNING if any(ending_of(key) in _OTHER_TABLES for key in others) else logging.INFO
        _log.log(level, "channel %r: passed over what is no table: %s", listing.channel, count_endings(others))
    spellings = SpellingCheck(lambda remark: _log.warning("channel %r: %s", listing.channel, remark))
    found = _Found(spellings, shared or SharedColumns())
    shapes: dict[int, str] = {}
    for key, form in formats.items():
        if form is not None:
            columns = _read_file(TableFile(listing.channel, listing.root, key), form, spec, found)
            if columns is not None:
                shapes.setdefault(len(columns.texts), key)
    if len(shapes) > 1:
        raise DataError(
            f"channel {listing.channel!r}: {shapes[1]} has one text per row but {shapes[2]} has two; "
            "give all files the same columns"
        )
    _check_faults(listing.channel, found, spec.max_bad_records)
    return TextTableReader(listing.channel, found.examples, found.faults)


def table_format(key: str, default_format: str | None) -> str | None:
    """Return the format of a file by its ending, or the default for generic endings; `None` if it is not a table.

    Files whose names begin with an underscore, such as Spark's `_SUCCESS`, are not tables.
    """
    ending = ending_of(key)
    if ending == ".gz":
        inside = table_format(key[: -len(ending)], default_format)
        return None if inside == "parquet" else inside
    if key.rpartition("/")[2].startswith("_"):
        return None
    return default_format if ending in _VAGUE_ENDINGS else TABLE_ENDINGS.get(ending)


def _open_table(file: TableFile, form: str, spec: DataSpec, found: _Found) -> Table:
    check_kind(file, form)
    if form == "parquet":
        return ParquetTable(file, spec, found.shared)
    if form == "jsonl":
        return JsonLinesTable(file, spec, found.shared)
    table = DelimitedTable(file, spec, tabs=form == "tsv", before=found.form, shared=found.shared)
    found.form = table.form or found.form
    return table


def _read_file(file: TableFile, form: str, spec: DataSpec, found: _Found) -> Columns | None:
    """Add the rows of a file to `found`; return its columns, or `None` if it has none."""
    table = _open_table(file, form, spec, found)
    if table.columns is None:
        found.faults.extend((f"{file.key}:{row.number}", _sentence(row.fault or "is empty")) for row in table.rows())
        return None
    found.files += 1
    if found.files <= _FILES_TOLD:
        _log.info(
            "%s: label from column %r, text from %s",
            file.where,
            table.columns.label,
            " and ".join(repr(name) for name in table.columns.texts),
        )
    for row in table.rows():
        try:
            found.examples.append(_example(file.key, row, spec, found.spellings))
        except ValueError as error:
            found.faults.append((f"{file.key}:{row.number}", _sentence(str(error))))
    return table.columns


def _sentence(reason: str) -> str:
    return f"it {reason}" if reason.startswith(("is ", "has ", "does ", "names ")) else reason


def _example(key: str, row: Row, spec: DataSpec, spellings: SpellingCheck) -> TextExample:
    if row.fault:
        raise ValueError(row.fault)
    texts = texts_of(row.cells[1:])
    labels = label_names(row.cells[0], multi_label=spec.multi_label, class_names=spec.class_names, spellings=spellings)
    return TextExample(key, row.number, texts, labels)


def texts_of(cells: Sequence[object]) -> tuple[str, ...]:
    """Return the texts of an example.

    Raises:
        ValueError: if all texts are empty, or a cell has another type.
    """
    texts = tuple(_text(cell) for cell in cells)
    if not any(text.strip() for text in texts):
        raise ValueError("the text is empty")
    return texts


def _text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and math.isinf(cell):
        raise ValueError("the text is an infinite number")
    if isinstance(cell, str):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            raise ValueError("the text holds half of a surrogate pair") from error
        return cell
    if isinstance(cell, int | float):
        return str(cell)
    raise ValueError(f"the text is a {type(cell).__name__}")


def _check_faults(channel: str, found: _Found, limit: int) -> None:
    faults = found.faults
    if len(faults) > limit:
        shown = "; ".join(f"{key}: {reason}" for key, reason in faults[:_FAULTS_SHOWN])
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(
            f"channel {channel!r}: {len(faults)} rows cannot be used: {shown}{more}. "
            f"Correct or remove them, or raise max_bad_records, which is {limit}"
        )
    if faults:
        _log.warning("channel %r: left out %d rows, such as %s: %s", channel, len(faults), *faults[0])
    if not found.examples:
        raise DataError(f"channel {channel!r}: its tables have no rows; expected is a label and a text per row")
