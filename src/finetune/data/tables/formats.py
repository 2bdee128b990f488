"""Reads the rows of a table in any supported file format."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from finetune.config.hyperparameters import DataSpec
from finetune.data.framing.lines import line_end, read_lines
from finetune.data.framing.lookahead import look_ahead
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.readers.file_kinds import FIRST_BYTES, non_table_kind, rejection_reason
from finetune.data.tables.arrow import ArrowFile
from finetune.data.tables.column_statistics import ColumnStatistics, cell_text, compute_statistics
from finetune.data.tables.columns import Columns, SharedColumns, choose_columns
from finetune.data.tables.delimited import UnclosedQuote
from finetune.data.tables.dialect import DelimitedFormat, FirstLines, infer_format
from finetune.data.tables.json_objects import choose_keys, json_objects, parse_object
from finetune.data.tables.text_lines import describe_utf8_error, encoding_error, file_chunks
from finetune.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

_log = logging.getLogger(__name__)


ColumnarKind = Literal["Parquet", "Arrow"]
_KINDS = {"parquet": ("Parquet",), "arrow": ("Arrow or Feather", "an Arrow stream")}
"""Kinds of content by table format, for those that are not text."""
_MAX_SAMPLED_ROWS = 1000


class Row(NamedTuple):
    """Label and texts of one row, or the reason why they are missing.

    Attributes:
        number: line on which the row begins, from 1; the row number in Parquet.
        cells: label and one or two texts; `None` for missing values.
        fault: problem with the row, to follow its name; empty if there is none.
    """

    number: int
    cells: tuple[object, ...]
    fault: str = ""


class Table(Protocol):
    """One file of rows."""

    @property
    def columns(self) -> Columns | None:
        """Label and text columns; `None` if no rows have any."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield the label and texts of each row."""
        ...


@dataclass(frozen=True, slots=True)
class TableFile:
    """Location of a table.

    Attributes:
        channel: channel name, for messages.
        root: folder of the channel.
        key: path of the file relative to `root`.
    """

    channel: str
    root: Path
    key: str

    @property
    def where(self) -> str:
        """Channel and file, for messages."""
        return f"channel {self.channel!r}, {self.key}"


class DelimitedTable:
    """CSV, TSV, or lines that begin with `__label__`."""

    def __init__(
        self,
        file: TableFile,
        spec: DataSpec,
        *,
        tabs: bool,
        previous: DelimitedFormat | None = None,
        shared: SharedColumns | None = None,
    ) -> None:
        """Infer the format from the first lines.

        Args:
            file: the table.
            spec: data hyperparameters.
            tabs: whether the file name or content type specifies tab-separated cells.
            previous: format of an earlier file of the channel.
            shared: columns of other tables of the job.
        """
        self._file = file
        with closing(_read_lines(file)) as lines:
            end = next(lines, b"\n")
            first, _ = look_ahead(lines)
        try:
            self.table_format = infer_format(
                FirstLines(first, end), spec, file.where, tabs=tabs, previous=previous, shared=shared
            )
        except UnicodeDecodeError as error:
            raise encoding_error(file.channel, file.root, file.key) from error
        self.columns = None if self.table_format is None else self.table_format.columns
        if self.table_format is not None and self.table_format.warning:
            _log.warning("%s: %s", file.where, self.table_format.warning)

    def rows(self) -> Iterator[Row]:
        """Yield the cells as written in the file, without enclosing quotation marks."""
        if self.table_format is None:
            return
        with closing(_read_lines(self._file)) as lines:
            next(lines, b"")
            try:
                for raw in self.table_format.records(lines, self._warn):
                    try:
                        yield Row(raw.line, tuple(self.table_format.cells(raw.content)))
                    except UnicodeDecodeError as error:
                        line = raw.line + raw.content.count(b"\n", 0, error.start)
                        yield Row(raw.line, (), describe_utf8_error(self._file.key, error, raw.offset, line))
                    except ValueError as error:
                        yield Row(raw.line, (), str(error))
            except UnclosedQuote as error:
                raise DataError(f"{self._file.where}, line {error.line} {error}") from error

    def _warn(self, warning: str) -> None:
        _log.warning("%s: %s", self._file.where, warning)


class JsonLinesTable:
    """JSON objects: one per line, or in an array."""

    def __init__(self, file: TableFile, spec: DataSpec, shared: SharedColumns) -> None:
        """Choose the columns from the first objects."""
        self._file = file
        with closing(_read_lines(file)) as lines:
            next(lines, b"")
            first, _ = look_ahead(lines)
        self.columns = choose_keys(first, spec, file.where, shared)
        if self.columns is None and first and not _is_utf8(first[0]):
            raise encoding_error(file.channel, file.root, file.key)

    def rows(self) -> Iterator[Row]:
        """Yield the parsed JSON values; `None` for missing keys."""
        columns = self.columns or Columns("", ())
        with closing(_read_lines(self._file)) as lines:
            next(lines, b"")
            for number, text in json_objects(lines):
                try:
                    value = parse_object(text)
                    yield Row(number, tuple(value.get(name) for name in (columns.label, *columns.texts)))
                except UnicodeDecodeError as error:
                    invalid_byte = f"byte 0x{error.object[error.start]:02x}"
                    yield Row(
                        number,
                        (),
                        f"is not UTF-8: {invalid_byte}; convert the file to UTF-8, for example with `iconv`",
                    )
                except ValueError as error:
                    yield Row(number, (), str(error))


class ColumnarTable:
    """Parquet or Arrow, read in row blocks with only the needed columns."""

    def __init__(self, file: TableFile, spec: DataSpec, shared: SharedColumns, kind: ColumnarKind) -> None:
        """Read the schema and choose the columns.

        Raises:
            DataError: if the file is damaged or of another kind, or contains images.
        """
        import pyarrow

        self._file = file
        self._kind = kind
        try:
            with self._open() as opened:
                schema = opened.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.where} cannot be read as {kind}: {_first_line(error)}") from error
        names = tuple(str(name) for name in schema.names)
        image_columns = [name for name in names if names.count(name) == 1 and is_image_type(schema.field(name).type)]
        others = tuple(name for name in names if name not in image_columns)
        if image_columns and (len(others) < 2 or spec.text_column in image_columns):
            raise DataError(
                f"{file.where}: column {image_columns[0]!r} contains images, which are not supported in {kind}; use"
                " files in a folder per class, tar shards, RecordIO or TFRecord"
            )
        self.columns = None
        if names:
            spec = shared.apply_to(spec, others)
            self.columns = choose_columns(others, spec, file.where, self._statistics(others, spec))
            shared.store(self.columns)

    def _open(self) -> pyarrow.parquet.ParquetFile | ArrowFile:
        import pyarrow.parquet

        path = self._file.root / self._file.key
        return ArrowFile(path) if self._kind == "Arrow" else pyarrow.parquet.ParquetFile(path)

    def _statistics(self, names: Sequence[str], spec: DataSpec) -> dict[str, ColumnStatistics]:
        """Compute statistics of uniquely named columns from the first rows; empty if they cannot be read."""
        import pyarrow

        unique = [name for name in names if names.count(name) == 1]
        try:
            with self._open() as opened:
                batch = next(opened.iter_batches(batch_size=_MAX_SAMPLED_ROWS, columns=unique), None)
                columns = [] if batch is None else [batch.column(name).to_pylist() for name in unique]
        except (pyarrow.ArrowException, ValueError, OverflowError, LookupError, OSError):
            return {}
        rows = [[cell_text(value) for value in row] for row in zip(*columns, strict=True)]
        statistics = compute_statistics(rows, len(unique), multi_label=spec.multi_label)
        return dict(zip(unique, statistics, strict=True)) if rows else {}

    def rows(self) -> Iterator[Row]:
        """Yield the values as Python objects; `None` for nulls."""
        import pyarrow

        columns = self.columns or Columns("", ())
        names = (columns.label, *columns.texts)
        number = 0
        try:
            with self._open() as opened:
                for batch in opened.iter_batches(batch_size=4096, columns=list(dict.fromkeys(names))):
                    values = [batch.column(name).to_pylist() for name in names]
                    for cells in zip(*values, strict=True):
                        number += 1
                        yield Row(number, cells)
        except (pyarrow.ArrowException, ValueError, OverflowError, LookupError, OSError) as error:
            raise DataError(
                f"{self._file.where} cannot be read as {self._kind} after row {number}: {_first_line(error)}"
            ) from error


def check_file_type(file: TableFile, table_format: str) -> None:
    """Refuse a file whose first bytes do not match its format.

    Raises:
        DataError: if they do not match; the message names the actual kind.
    """
    with closing(file_chunks(file.channel, file.root, file.key)) as chunks:
        head = next(chunks, b"")[:FIRST_BYTES]
    file_type = non_table_kind(head, allowed=_KINDS.get(table_format, ()))
    if file_type is not None:
        raise DataError(f"{file.where} {rejection_reason(file_type)}")


def is_image_type(data_type: pyarrow.DataType) -> bool:
    """Return whether values are encoded images in the style of Hugging Face datasets: bytes, or bytes with a path."""
    import pyarrow

    if pyarrow.types.is_struct(data_type):
        return {"bytes", "path"} <= {field.name for field in data_type}
    return bool(pyarrow.types.is_binary(data_type) or pyarrow.types.is_large_binary(data_type))


def _read_lines(file: TableFile) -> Generator[bytes, None, None]:
    """Yield the line end, then the lines without it.

    Raises:
        DataError: if the file cannot be read, or a line is too long.
    """
    with closing(file_chunks(file.channel, file.root, file.key)) as chunks:
        window = Window(chunks)
        end = line_end(window)
        yield end
        try:
            for line in read_lines(window, end):
                yield bytes(line)
        except DamagedStream as error:
            raise DataError(f"{file.where} {error}") from error


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
