"""Reads rows of CSV, TSV, JSON Lines and Parquet, and chooses their columns, of which labels are optional."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from finetune.data.tables.columns import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS
from finetune.data.tables.json_objects import json_objects, parse_object
from finetune.errors import UserError, did_you_mean

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path", "input", "record")
_TEXTS = (*TEXT_COLUMNS, "inputs")
_DELIMITERS = ",;\t|"
_MAX_CELL_CHARACTERS = 1 << 30
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Names of columns, or their numbers from 0 in tables without a header; `None` to detect a column by its name."""

    label: str | None = None
    text: str | None = None
    text_pair: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        line: line on which it begins, or the number of the row in Parquet, from 1.
        cells: values by column name.
        fault: reason why it cannot be read.
    """

    line: int
    cells: Mapping[str, object]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class ChosenColumns:
    """Columns of the path or the texts, and of the label, if there is one."""

    contents: tuple[str, ...]
    label: str | None


def read_json(lines: Iterable[bytes]) -> Iterator[Row]:
    """Yield the objects of JSON Lines or of a JSON array."""
    for line, text in json_objects(raw.rstrip(b"\r\n") for raw in lines):
        try:
            yield Row(line, parse_object(text))
        except UnicodeDecodeError:
            yield Row(line, {}, "is not text in UTF-8")
        except ValueError as error:
            yield Row(line, {}, str(error))


def read_separated(lines: Iterable[bytes], columns: TableColumns, *, tabs: bool) -> Iterator[Row]:
    """Yield the rows of CSV or TSV.

    The first row is a header if it contains a usual or requested column name; otherwise columns are numbered from 0.
    The delimiter is that for which the first row has the most of these names, by default a comma.
    """
    remaining = iter(lines)
    first = next(remaining, b"")
    delimiter = "\t" if tabs else _delimiter(first.decode("utf-8", "replace"), columns)
    texts = (line.decode("utf-8-sig", "surrogateescape") for line in chain([first], remaining))
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            with _long_cells():
                cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, {}, f"is not CSV: {error}")
            continue
        if not names and _known_names(cells, columns):
            names = [cell.strip() for cell in cells]
        elif cells:
            names = names or [str(number) for number in range(len(cells))]
            yield Row(line, dict(zip(names, cells, strict=False)), _row_fault(cells, names))


def read_parquet(path: Path, columns: TableColumns, *, texts: int) -> Iterator[Row]:
    """Yield the rows of a Parquet file with only the columns of the contents and the label; see `choose_columns`.

    Raises:
        UserError: the file is damaged or has no suitable columns, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need the package pyarrow; install it with `pip install pyarrow`") from None
    from finetune.data.tables.formats import is_image_type

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
            chosen = choose_columns(tuple(schema.names), columns, texts=texts)
            for name in chosen.contents:
                if is_image_type(schema.field(name).type):
                    raise UserError(f"column {name!r} contains images, which are not supported in Parquet; use files")
            names = [*chosen.contents, *((chosen.label,) if chosen.label is not None else ())]
            for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(number, cells)
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError, OSError) as error:
        cause = str(error).partition("\n")[0][:200]
        raise UserError(f"cannot be read as Parquet after row {number}: {cause}") from error


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells above the limit of the csv module, which is one for the whole process."""
    before = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def choose_columns(names: Sequence[str], requested: TableColumns, *, texts: int) -> ChosenColumns:
    """Choose the requested columns, else those with usual names, else the only ones beside the label.

    Args:
        names: columns of the table.
        requested: columns set by the user.
        texts: number of text columns; 0 for the path of an image.

    Raises:
        UserError: a requested column is missing, or the choice is ambiguous.
    """
    wanted = (requested.text, requested.text_pair) if texts else (requested.image,)
    for name in (*wanted, requested.label):
        if name is not None and name not in names:
            raise UserError(f"there is no column {name!r}{did_you_mean(name, names)}; columns: {', '.join(names)}")
    by_name = {name.lower(): name for name in reversed(names)}
    labels = (by_name[usual] for usual in LABEL_COLUMNS if usual in by_name and by_name[usual] not in wanted)
    label = requested.label or next(labels, None)
    others = [name for name in names if name != label]
    contents = tuple(name for name in wanted if name is not None) or _usual(others, texts)
    count = max(1, texts)
    if not contents and len(others) == count:
        contents = tuple(others)
    if len(contents) != count:
        options = ("--image-column", "--text-column", "--text-column and --text-pair-column")[texts]
        kind = "path of an image" if not texts else f"{texts} text(s)"
        raise UserError(f"cannot determine the column of the {kind}; set {options} to one of: {', '.join(names)}")
    return ChosenColumns(contents, label)


def _usual(names: Sequence[str], texts: int) -> tuple[str, ...]:
    by_name = {name.lower(): name for name in reversed(names)}
    if texts > 1:
        pairs = (pair for pair in PAIR_COLUMNS if set(pair) <= set(by_name))
        return tuple(by_name[name] for name in next(pairs, ()))
    usual = (by_name[name] for name in (_TEXTS if texts else IMAGE_COLUMNS) if name in by_name)
    return tuple(usual)[:1]


def _delimiter(first_line: str, columns: TableColumns) -> str:
    line = first_line.removeprefix("\ufeff").strip("\r\n")
    return max(_DELIMITERS, key=lambda delimiter: _known_names(line.split(delimiter), columns))


def _known_names(cells: Sequence[str], columns: TableColumns) -> int:
    """Return the number of cells that are usual or requested names of columns."""
    requested = {name for name in (columns.label, columns.text, columns.text_pair, columns.image) if name is not None}
    names = {name for name in requested if not name.isdecimal()}
    usual = {*LABEL_COLUMNS, *_TEXTS, *IMAGE_COLUMNS, *(name for pair in PAIR_COLUMNS for name in pair)}
    stripped = [cell.strip().strip('"') for cell in cells]
    return sum(cell in names or cell.lower() in usual for cell in stripped)


def _row_fault(cells: Sequence[str], names: Sequence[str]) -> str | None:
    if len(cells) != len(names):
        return f"has {len(cells)} columns instead of {len(names)}; quote texts that contain the delimiter"
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return "is not text in UTF-8"
    return None
