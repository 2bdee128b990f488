"""Infers delimiter, header and columns of a delimited table from its first lines, for both files and streams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from finetune.config.hyperparameters import DataSpec
from finetune.data.label_parsing import LABEL_SEPARATOR
from finetune.data.readers.channel_files import some_of
from finetune.data.tables.column_statistics import compute_statistics
from finetune.data.tables.columns import (
    LABEL_COLUMNS,
    Columns,
    SharedColumns,
    check_not_swapped,
    choose_columns,
    choose_positions,
)
from finetune.data.tables.delimited import (
    BYTE_ORDER_MARK,
    DELIMITERS,
    LABEL_PREFIX,
    Dialect,
    RawRow,
    UnclosedQuote,
    split_cells,
    split_rows,
)
from finetune.data.tables.header import USUAL_TEXT_COLUMNS, detect_header, has_usual_names
from finetune.errors import DataError, UserError

_DELIMITER_LINE = re.compile(rb'"?sep=(.)"?\s*')
_JSON = re.compile(rb'\s*(?:\{\s*(?:"|$)|\[\s*(?:\{|$))')
_MARKDOWN_RULE = re.compile(rb"\|?(?:\s*:?-{3,}:?\s*\|)+(?:\s*:?-{3,}:?)?\s*")
_LABEL_CELL = re.compile(rf"{LABEL_PREFIX}[^\s,;|]+[,;|]")
_MIN_MATCHING_SHARE = 0.8
"""Minimum share of rows with the same number of columns for refusing a first row with a different number."""
_AMBIGUITY_MARGIN = 0.2
"""Delimiters whose shares of matching rows differ by at most this are ambiguous."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Rows as split by one dialect.

    Attributes:
        dialect: format of rows and cells.
        rows: cells as written in the table.
        width: number of columns of the first row or of most rows, whichever matches more rows.
        matching_share: share of rows with this number of columns.
    """

    dialect: Dialect
    rows: list[list[str]]
    width: int
    matching_share: float


@dataclass(frozen=True, slots=True)
class DelimitedFormat:
    """Inferred format of a table.

    Attributes:
        dialect: format of rows and cells.
        header: cells of the header row, or `None`.
        width: number of columns.
        columns: label and text columns, by name or number.
        positions: indices of the label and text columns.
        warning: warning about the header for the user; empty if the header is unambiguous.
        delimiter_line: first line if it only declares the delimiter, such as `sep=;`.
    """

    dialect: Dialect
    header: tuple[str, ...] | None
    width: int
    columns: Columns
    positions: tuple[int, ...]
    warning: str = ""
    delimiter_line: bytes = b""

    def records(self, lines: Iterable[bytes], warn: Callable[[str], None]) -> Iterator[RawRow]:
        """Yield the rows that are records.

        Args:
            lines: lines of the whole table without their line ends.
            warn: called at the end with a message about skipped rows.

        Raises:
            UnclosedQuote: if a quoted field is not closed.
        """
        repeated_lines: list[int] = []
        is_first = self.header is not None
        for row in split_rows(lines, self.dialect, self.delimiter_line):
            if self.header is not None and self._is_header(row.content):
                if not is_first:
                    repeated_lines.append(row.line)
                is_first = False
                continue
            if row.content.strip(b" \t\r" + self.dialect.delimiter.encode()):
                yield row
        if repeated_lines:
            shown = some_of(map(str, repeated_lines))
            warn(f"skipped repeated headers on lines {shown}")

    def cells(self, row: bytes) -> list[object]:
        """Return the label and texts of a row.

        Raises:
            UnicodeDecodeError: if the row is not UTF-8.
            ValueError: if the number of columns differs, quotation marks are misplaced, or the row names columns.
        """
        cells = split_cells(row.decode("utf-8"), self.dialect)
        while len(cells) > self.width and cells[-1] == "":
            cells.pop()
        if len(cells) != self.width:
            raise ValueError(f"has {len(cells)} columns instead of {self.width}; {self._hint(row)}")
        if self.header is not None and cells[0] in self.header and sorted(map(str, cells)) == sorted(self.header):
            raise ValueError("contains the column names in a different order than the header; use one order everywhere")
        selected = [cells[position] for position in self.positions]
        if self.header is None and _are_column_names(selected):
            raise ValueError(f"contains column names ({some_of(map(repr, cells))}) instead of a record; remove it")
        return selected

    def _hint(self, row: bytes) -> str:
        if row.startswith(b"#"):
            return "remove it if it is a comment"
        if re.search(re.escape(self.dialect.delimiter.encode()) + b' +"', row):
            return "remove the space before the quotation mark"
        return "quote texts that contain the delimiter"

    def _is_header(self, row: bytes) -> bool:
        assert self.header is not None  # noqa: S101 - narrows the type
        if len(row) > 4 * sum(len(name) + 3 for name in self.header) + 16:
            return False
        with suppress(ValueError):
            cells = [str(cell).strip() for cell in split_cells(row.decode("utf-8"), self.dialect)]
            return _matches_width(cells, self.width) and tuple(cells[: self.width]) == self.header
        return False


class FirstLines(NamedTuple):
    """The beginning of a table.

    Attributes:
        lines: lines without their line ends.
        end: line end.
    """

    lines: Sequence[bytes]
    end: bytes = b"\n"


def infer_format(
    first: FirstLines,
    spec: DataSpec,
    where: str,
    *,
    tabs: bool = False,
    previous: DelimitedFormat | None = None,
    shared: SharedColumns | None = None,
) -> DelimitedFormat | None:
    """Infer the format of a table.

    Args:
        first: first lines of the table.
        spec: data hyperparameters.
        where: channel and file, for messages.
        tabs: whether the file name or content type specifies tab-separated cells.
        previous: format of an earlier file of the channel; its columns are used if this table has no header.
        shared: columns of other tables of the job.

    Returns:
        The format, or `None` if there are no rows.

    Raises:
        DataError: if the first rows have inconsistent columns, or the content is not a table.
        UserError: if the delimiter, header or columns are ambiguous.
        UnicodeDecodeError: if the first row is not UTF-8.
    """
    lines, end = first
    head = lines[0].removeprefix(BYTE_ORDER_MARK) if lines else b""
    delimiter_match = _DELIMITER_LINE.fullmatch(head)
    delimiter_line = head if delimiter_match else b""
    lines = [line.removeprefix(BYTE_ORDER_MARK) for line in lines[1 if delimiter_match else 0 :]]
    if not any(line.strip() for line in lines):
        return None
    if _JSON.match(next(line for line in lines if line.strip())):
        raise DataError(f"{where} contains JSON; use the extension .jsonl or the content type application/jsonlines")
    if any(map(_MARKDOWN_RULE.fullmatch, lines[:3])):
        raise DataError(f"{where} is a Markdown table; use CSV, TSV, JSON Lines or Parquet")
    if delimiter_match:
        dialects = [Dialect(delimiter_match[1].decode("ascii"), end=end)]
    elif _has_label_lines(lines):
        if spec.header == "true":
            raise UserError(f"{where}: header=true, but lines that begin with {LABEL_PREFIX} have no header; remove it")
        return DelimitedFormat(Dialect(" ", "labels", end), None, 2, Columns("0", ("1",)), (0, 1))
    else:
        dialects = [
            dialect
            for dialect in _candidate_dialects(lines, end, tabs=tabs)
            if not (spec.multi_label and dialect.delimiter == LABEL_SEPARATOR)
        ]
    candidates = [candidate for dialect in dialects if (candidate := _split_candidate(lines, dialect)) is not None]
    chosen = _choose_candidate(candidates, spec, where)
    if shared is not None:
        spec = shared.apply_to(spec, [cell.strip() for cell in chosen.rows[0]])
    table_format = _build_format(chosen, spec, where, previous)
    if shared is not None and table_format.header is not None and table_format.columns.label in table_format.header:
        shared.store(table_format.columns)
    return replace(table_format, delimiter_line=delimiter_line)


def _candidate_dialects(lines: Sequence[bytes], end: bytes, *, tabs: bool) -> list[Dialect]:
    """Return the dialects to try; plain tabs precede quoted tabs, since most such files are written without quoting."""
    plain = Dialect("\t", "plain", end)
    if tabs and any(b"\t" in line for line in lines):
        return [plain, Dialect("\t", end=end)]
    quoted = [Dialect(delimiter, end=end) for delimiter in DELIMITERS]
    return [*quoted[:2], plain, *quoted[2:]]


def _has_label_lines(lines: Sequence[bytes]) -> bool:
    non_blank = [text for line in lines if (text := line.decode("utf-8", "replace").strip())]
    labeled = [text for text in non_blank if text.startswith(LABEL_PREFIX)]
    delimited = sum(_LABEL_CELL.match(text) is not None for text in labeled)
    return 2 * len(labeled) > len(non_blank) and non_blank[0].startswith(LABEL_PREFIX) and 2 * delimited < len(labeled)


def _split_candidate(lines: Sequence[bytes], dialect: Dialect) -> _Candidate | None:
    """Split the rows by a dialect; return `None` if this yields no rows or only one column."""
    rows: list[list[str]] = []
    invalid_rows = 0
    with suppress(UnclosedQuote):  # The last row may extend past the first lines; others are refused when read.
        for raw in split_rows(lines, dialect):
            try:
                rows.append([str(cell) for cell in split_cells(raw.content.decode("utf-8"), dialect)])
            except UnicodeDecodeError:
                if not rows:
                    raise
                invalid_rows += 1
            except ValueError:
                invalid_rows += 1
    if not rows:
        return None
    usual_width, _ = Counter(map(len, rows)).most_common(1)[0]
    shares = {
        width: sum(_matches_width(row, width) for row in rows) / (len(rows) + invalid_rows)
        for width in (len(rows[0]), usual_width)
    }
    width = max(shares, key=lambda count: shares[count])
    matching_share = shares[width]
    while width > 2 and not any(row[width - 1].strip() for row in rows if len(row) >= width):
        width -= 1
    return _Candidate(dialect, rows, width, matching_share) if width > 1 else None


def _matches_width(row: Sequence[str], width: int) -> bool:
    return len(row) >= width and not any(row[width:])


def _choose_candidate(candidates: Sequence[_Candidate], spec: DataSpec, where: str) -> _Candidate:
    if not candidates:
        raise UserError(
            f"{where} has 1 column and no header: no delimiter (comma, semicolon, tab or |) splits its rows; expected "
            f"a label and a text per row, or lines that begin with {LABEL_PREFIX}"
        )
    best = max(candidate.matching_share for candidate in candidates)
    remaining = [
        candidate
        for candidate in candidates
        if candidate.matching_share == best or (best < 1 and candidate.matching_share >= best - _AMBIGUITY_MARGIN)
    ]
    remaining = _with_usual_names(remaining, spec) or remaining
    if len({candidate.dialect.delimiter for candidate in remaining}) > 1:
        remaining = [candidate for candidate in remaining if not _is_punctuation(candidate)] or remaining
    if len({candidate.dialect.delimiter for candidate in remaining}) > 1:
        remaining = [candidate for candidate in remaining if _has_label(candidate, spec)] or remaining
    if len({candidate.dialect.delimiter for candidate in remaining}) > 1:
        shown = " or ".join(
            f"{candidate.dialect.delimiter!r} ({some_of(map(repr, candidate.rows[0]))})" for candidate in remaining
        )
        raise UserError(
            f"{where}: the delimiter is ambiguous: {shown}; enclose texts that contain the other character in quotation"
            f" marks, or declare the delimiter in a first line such as sep={remaining[0].dialect.delimiter}"
        )
    return max(remaining, key=lambda candidate: candidate.matching_share)


def _with_usual_names(candidates: Sequence[_Candidate], spec: DataSpec) -> list[_Candidate]:
    return [
        candidate for candidate in candidates if has_usual_names([cell.strip() for cell in candidate.rows[0]], spec)
    ]


def _is_punctuation(candidate: _Candidate) -> bool:
    """Return whether every delimiter is followed by a space, which is common in sentences and rare in tables."""
    return all(cell[:1] == " " for row in candidate.rows for cell in row[1:])


def _has_label(candidate: _Candidate, spec: DataSpec) -> bool:
    rows = [row[: candidate.width] for row in candidate.rows if _matches_width(row, candidate.width)]
    return any(
        column.is_possible_label for column in compute_statistics(rows, candidate.width, multi_label=spec.multi_label)
    )


def _build_format(
    candidate: _Candidate, spec: DataSpec, where: str, previous: DelimitedFormat | None
) -> DelimitedFormat:
    rows = [[cell.strip() for cell in row] for row in candidate.rows]
    first, width = rows[0], candidate.width
    if not _matches_width(first, width):
        if candidate.matching_share >= _MIN_MATCHING_SHARE and not (len(first) > 1 and has_usual_names(first, spec)):
            raise DataError(
                f"{where}: line 1 ({some_of(map(repr, first))}) has {len(first)} columns, but most other rows have "
                f"{width}; remove it if it is a title or a comment, or give all rows the same number of columns"
            )
        width = max(len(first), 2)
    first = [*first[:width], *[""] * (width - len(first))]
    rest = [row[:width] for row in rows[1:] if _matches_width(row, width)]
    distinct = [row for row in rest if row != first]
    header = detect_header(first, distinct, spec, where)
    if not header.is_header and previous is not None and previous.header is not None and previous.width == width:
        statistics = compute_statistics([first, *rest], width, multi_label=spec.multi_label)
        by_name = dict(zip(previous.header, statistics, strict=True))
        check_not_swapped(previous.columns.label, previous.columns.texts[0], by_name, where)
        return replace(previous, dialect=candidate.dialect, warning="")
    statistics = compute_statistics(
        distinct if header.is_header else [first, *rest], width, multi_label=spec.multi_label
    )
    names = (
        first if header.is_header and not _is_set_by_number(first, spec) else [str(number) for number in range(width)]
    )
    by_name = {name: column for name, column in zip(names, statistics, strict=True) if names.count(name) == 1}
    columns = (
        choose_columns(names, spec, where, by_name) if names is first else choose_positions(width, spec, where, by_name)
    )
    positions = tuple(names.index(name) for name in (columns.label, *columns.texts))
    return DelimitedFormat(
        candidate.dialect, tuple(first) if header.is_header else None, width, columns, positions, header.warning
    )


def _are_column_names(cells: Sequence[object]) -> bool:
    """Return whether the label and texts are usual names of such columns."""
    label, *texts = (str(cell).strip().lower() for cell in cells)
    return label in LABEL_COLUMNS and all(text in USUAL_TEXT_COLUMNS for text in texts)


def _is_set_by_number(header: Sequence[str], spec: DataSpec) -> bool:
    """Return whether the user sets the columns by number although they have names."""
    requested = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    return bool(requested) and all(name.isdecimal() and name not in header for name in requested)
