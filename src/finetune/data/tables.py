"""What are the rows of a table, whichever format its file has?"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from finetune.data.delimited import Rows, read_delimited
from finetune.data.header import Header
from finetune.data.text_lines import text_lines
from finetune.errors import DataError

_log = logging.getLogger(__name__)

_LOOKED_AT = 1000
"""Lines of JSON Lines that tell the columns: an object may lack some."""

FindHeader = Callable[[Sequence[str], Iterable[Sequence[str]]], Header]
"""Of the first row, and of those behind it."""


class Row(NamedTuple):
    """The chosen cells of one row, or why it has none.

    Attributes:
        number: line on which the row begins, from 1; in Parquet its number.
        cells: values of the chosen columns, in their order; None where a value is missing.
        fault: what is wrong with the row; empty where nothing is.
    """

    number: int
    cells: tuple[object, ...]
    fault: str = ""


class Table(Protocol):
    """One file of rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; their numbers, from 0, where the file names none."""
        ...

    @property
    def has_names(self) -> bool:
        """Whether the file names its columns so that they can be chosen by name."""
        ...

    def rows(self, chosen: Sequence[str]) -> Iterator[Row]:
        """Give the cells of some columns, row by row."""
        ...


@dataclass(frozen=True, slots=True)
class TableFile:
    """Where a table lies.

    Attributes:
        channel: for messages.
        root: the channel's folder.
        key: the file, relative to it.
    """

    channel: str
    root: Path
    key: str

    @property
    def where(self) -> str:
        """Channel and file, for messages."""
        return f"channel {self.channel!r}, {self.key}"


class DelimitedTable:
    """CSV or TSV."""

    def __init__(self, file: TableFile, delimiters: str, find_header: FindHeader) -> None:
        """Look at the first row, and at others where it takes them to tell whether that is a header."""
        self._file = file
        self._delimiters = delimiters
        with closing(self._read()) as rows:
            _, first = next(rows, (1, []))
            stripped = tuple(cell.strip() for cell in first)
            header = find_header(stripped, (cells for _, cells in rows)) if first else Header(False)
        if header.remark:
            _log.warning("%s: %s", file.where, header.remark)
        self._skips_first = header.is_there
        self.has_names = header.is_there and header.chooses
        self.columns = stripped if self.has_names else tuple(str(number) for number in range(len(first)))

    def rows(self, chosen: Sequence[str]) -> Iterator[Row]:
        """Give the cells as they stand in the file, without the quotation marks around them."""
        positions = [self.columns.index(name) for name in chosen]
        rows = self._read()
        if self._skips_first:
            next(rows)
        for line, cells in rows:
            if len(cells) == len(self.columns):
                yield Row(line, tuple(cells[at] for at in positions))
            else:
                fault = f"it has {len(cells)} columns instead of {len(self.columns)}; quote texts that hold a delimiter"
                yield Row(line, (), fault)

    def _read(self) -> Rows:
        return read_delimited(self._file.channel, self._file.root, self._file.key, self._delimiters)


class JsonLinesTable:
    """An object per line; the first ones name the columns."""

    has_names = True

    def __init__(self, file: TableFile) -> None:
        """Look for the names in the first lines that hold objects."""
        self._file = file
        with closing(self._objects()) as objects:
            known = (value for _, value in itertools.islice(objects, _LOOKED_AT) if isinstance(value, dict))
            self.columns = tuple(dict.fromkeys(name for value in known for name in value))

    def rows(self, chosen: Sequence[str]) -> Iterator[Row]:
        """Give the values as JSON has them; None where an object lacks one."""
        for line, value in self._objects():
            if isinstance(value, dict):
                yield Row(line, tuple(value.get(name) for name in chosen))
            else:
                yield Row(line, (), str(value))

    def _objects(self) -> Generator[tuple[int, dict[str, object] | str], None, None]:
        for line, text in text_lines(self._file.channel, self._file.root, self._file.key):
            if text.strip():
                yield line, _parse_object(text)


class ParquetTable:
    """Parquet, read in blocks and by column."""

    has_names = True

    def __init__(self, file: TableFile) -> None:
        """Read the schema.

        Raises:
            DataError: the file is no Parquet.
        """
        import pyarrow
        import pyarrow.parquet

        self._file = file
        try:
            with pyarrow.parquet.ParquetFile(file.root / file.key) as parquet:
                self.columns = tuple(str(name) for name in parquet.schema_arrow.names)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.where} cannot be read as Parquet: {_first_line(error)}") from error

    def rows(self, chosen: Sequence[str]) -> Iterator[Row]:
        """Give the values as Python objects; None where one is null."""
        import pyarrow
        import pyarrow.parquet

        number = 0
        try:
            with pyarrow.parquet.ParquetFile(self._file.root / self._file.key) as parquet:
                for batch in parquet.iter_batches(batch_size=4096, columns=list(dict.fromkeys(chosen))):
                    values = [batch.column(name).to_pylist() for name in chosen]
                    for cells in zip(*values, strict=True):
                        number += 1
                        yield Row(number, cells)
        except (pyarrow.ArrowException, ValueError, OverflowError, LookupError, OSError) as error:
            raise DataError(
                f"{self._file.where} cannot be read as Parquet beyond row {number}: {_first_line(error)}"
            ) from error


def _parse_object(text: str) -> dict[str, object] | str:
    """Parse a line, or say why it cannot be."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return f"it is not JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({_first_line(error)})"
    return value if isinstance(value, dict) else "it is not a JSON object"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
