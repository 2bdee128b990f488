"""Reads labeled texts from the tables of a channel."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.config.hyperparameters import DataSpec, TaskName
from finetune.data.label_parsing import SpellingCheck, label_names
from finetune.data.readers.channel_files import Listing, count_endings, ending_of
from finetune.data.record import Record
from finetune.data.tables.arrow import DATASET_FILES
from finetune.data.tables.columns import Columns, SharedColumns
from finetune.data.tables.dialect import DelimitedFormat
from finetune.data.tables.formats import (
    ColumnarTable,
    DelimitedTable,
    JsonLinesTable,
    Row,
    Table,
    TableFile,
    check_file_type,
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
    ".arrow": "arrow",
}
"""Table format by file ending."""

_GENERIC_ENDINGS = frozenset({"", ".txt", ".text", ".dat", ".data", ".out", ".train", ".valid", ".validation", ".test"})
_UNSUPPORTED_ENDINGS = frozenset(
    {".xlsx", ".xls", ".xlsm", ".ods", ".zip", ".feather", ".orc", ".avro", ".h5", ".db", ".sqlite", ".pkl"}
)
_MAX_SHOWN_FAULTS = 4
_MAX_LOGGED_FILES = 20
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
class _ChannelContent:
    spellings: SpellingCheck
    shared: SharedColumns
    examples: list[TextExample] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    table_format: DelimitedFormat | None = None
    files: int = 0


class TextTableReader:
    """Labeled texts held in memory; a `Reader`.

    Attributes:
        channel: name of the channel.
        left_out: key and reason of each row that cannot be used; at most `max_bad_records`.
    """

    task: TaskName = "text-classification"

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
    formats = table_formats(listing.keys, default_format)
    skipped = [key for key, file_format in formats.items() if file_format is None]
    if skipped:
        level = logging.WARNING if any(ending_of(key) in _UNSUPPORTED_ENDINGS for key in skipped) else logging.INFO
        _log.log(level, "channel %r: skipped files that are not tables: %s", listing.channel, count_endings(skipped))
    spellings = SpellingCheck(lambda warning: _log.warning("channel %r: %s", listing.channel, warning))
    content = _ChannelContent(spellings, shared or SharedColumns())
    first_files: dict[int, str] = {}
    for key, file_format in formats.items():
        if file_format is not None:
            columns = _read_file(TableFile(listing.channel, listing.root, key), file_format, spec, content)
            if columns is not None:
                first_files.setdefault(len(columns.texts), key)
    if len(first_files) > 1:
        raise DataError(
            f"channel {listing.channel!r}: {first_files[1]} has one text per row but {first_files[2]} has two; "
            "give all files the same columns"
        )
    _check_faults(listing.channel, content, spec.max_bad_records)
    return TextTableReader(listing.channel, content.examples, content.faults)


def table_formats(keys: Iterable[str], default_format: str | None) -> dict[str, str | None]:
    """Return the format of every file, `None` if it is not a table; see `table_format`.

    In folders of `save_to_disk`, the JSON files beside the Arrow files are not tables.
    """
    formats = {key: table_format(key, default_format) for key in keys}
    if "arrow" in formats.values():
        formats |= {key: None for key in formats if key.rpartition("/")[2] in DATASET_FILES}
    return formats


def table_format(key: str, default_format: str | None) -> str | None:
    """Return the format of a file by its ending, or the default for generic endings; `None` if it is not a table.

    Files whose names begin with an underscore, such as Spark's `_SUCCESS`, are not tables.
    """
    ending = ending_of(key)
    if ending == ".gz":
        inner_format = table_format(key[: -len(ending)], default_format)
        return None if inner_format in ("parquet", "arrow") else inner_format
    if key.rpartition("/")[2].startswith("_"):
        return None
    return default_format if ending in _GENERIC_ENDINGS else TABLE_ENDINGS.get(ending)


def _open_table(file: TableFile, file_format: str, spec: DataSpec, content: _ChannelContent) -> Table:
    check_file_type(file, file_format)
    if file_format in ("parquet", "arrow"):
        return ColumnarTable(file, spec, content.shared, "Arrow" if file_format == "arrow" else "Parquet")
    if file_format == "jsonl":
        return JsonLinesTable(file, spec, content.shared)
    table = DelimitedTable(file, spec, tabs=file_format == "tsv", previous=content.table_format, shared=content.shared)
    content.table_format = table.table_format or content.table_format
    return table


def _read_file(file: TableFile, file_format: str, spec: DataSpec, content: _ChannelContent) -> Columns | None:
    """Add the rows of a file to `content`; return its columns, or `None` if it has none."""
    table = _open_table(file, file_format, spec, content)
    if table.columns is None:
        content.faults.extend(
            (f"{file.key}:{row.number}", _as_sentence(row.fault or "is empty")) for row in table.rows()
        )
        return None
    content.files += 1
    if content.files <= _MAX_LOGGED_FILES:
        _log.info(
            "%s: label from column %r, text from %s",
            file.where,
            table.columns.label,
            " and ".join(repr(name) for name in table.columns.texts),
        )
    for row in table.rows():
        try:
            content.examples.append(_parse_row(file.key, row, spec, content.spellings))
        except ValueError as error:
            content.faults.append((f"{file.key}:{row.number}", _as_sentence(str(error))))
    return table.columns


def _as_sentence(reason: str) -> str:
    return f"it {reason}" if reason.startswith(("is ", "has ", "does ", "contains ")) else reason


def _parse_row(key: str, row: Row, spec: DataSpec, spellings: SpellingCheck) -> TextExample:
    if row.fault:
        raise ValueError(row.fault)
    texts = parse_texts(row.cells[1:])
    labels = label_names(row.cells[0], multi_label=spec.multi_label, class_names=spec.class_names, spellings=spellings)
    return TextExample(key, row.number, texts, labels)


def parse_texts(cells: Sequence[object]) -> tuple[str, ...]:
    """Return the texts of an example.

    Raises:
        ValueError: if all texts are empty, or a cell has another type.
    """
    texts = tuple(_parse_text(cell) for cell in cells)
    if not any(text.strip() for text in texts):
        raise ValueError("the text is empty")
    return texts


def _parse_text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and math.isinf(cell):
        raise ValueError("the text is an infinite number")
    if isinstance(cell, str):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            raise ValueError("the text contains an unpaired surrogate") from error
        return cell
    if isinstance(cell, int | float):
        return str(cell)
    raise ValueError(f"the text is a {type(cell).__name__}")


def _check_faults(channel: str, content: _ChannelContent, limit: int) -> None:
    faults = content.faults
    if len(faults) > limit:
        shown = "; ".join(f"{key}: {reason}" for key, reason in faults[:_MAX_SHOWN_FAULTS])
        more = f"; and {len(faults) - _MAX_SHOWN_FAULTS} more" if len(faults) > _MAX_SHOWN_FAULTS else ""
        raise DataError(
            f"channel {channel!r}: {len(faults)} rows cannot be used: {shown}{more}. "
            f"Correct or remove them, or increase max_bad_records (currently {limit})"
        )
    if faults:
        _log.warning("channel %r: skipped %d unusable rows, such as %s: %s", channel, len(faults), *faults[0])
    if not content.examples:
        raise DataError(f"channel {channel!r}: its tables have no rows; expected a label and a text per row")
