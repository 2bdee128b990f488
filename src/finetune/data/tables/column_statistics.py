"""Column statistics that distinguish labels, texts, numbers and names in the first rows of a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune.data.label_parsing import LABEL_SEPARATOR

MIN_ROWS = 10
"""Minimum number of rows for rejecting a column without repeated values as a label."""

_NAME = re.compile(r"[^\W\d]\w*(?:(?:[ ./:#-]|: )\w+){0,2}[?:]?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:[.,][0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?%?")
_MAX_NAME_LENGTH = 40
_MAX_LABEL_LENGTH = 60
_MAX_NAME_WORDS = 7
_MIN_NUMERIC_SHARE = 0.9
_MIN_TEXT_WORDS = 3


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    return _NUMBER.fullmatch(cell) is not None


def is_name(cell: str) -> bool:
    """Return whether a cell looks like a column name: up to three words."""
    return len(cell) <= _MAX_NAME_LENGTH and _NAME.fullmatch(cell) is not None


def is_possible_name(cell: str) -> bool:
    """Return whether a cell could be a long column name: up to seven words, without end-of-sentence punctuation."""
    return is_name(cell) or (
        len(cell) <= _MAX_LABEL_LENGTH
        and len(cell.split()) <= _MAX_NAME_WORDS
        and not is_number(cell)
        and cell[-1:] not in (".", "!")
        and "," not in cell
    )


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Statistics of the cells of one column.

    Attributes:
        rows: number of cells, including blank ones.
        non_blank: number of non-blank cells.
        unique_values: number of values that occur exactly once.
        numeric: number of numeric cells.
        names: number of cells that look like column names.
        possible_names: number of cells that could be column names.
        mean_length: mean length of non-blank cells in characters.
        mean_words: mean number of words in non-blank cells.
        values: distinct values of non-blank cells; individual classes if cells contain several.
    """

    rows: int
    non_blank: int
    unique_values: int
    numeric: int
    names: int
    possible_names: int
    mean_length: float
    mean_words: float
    values: frozenset[str]

    @property
    def has_repeats(self) -> bool:
        """Whether values repeat, as in a label column: on average each occurs at least twice."""
        return 2 * len(self.values) <= self.non_blank

    @property
    def is_possible_label(self) -> bool:
        """Whether the column looks like a label: two or more short values that repeat."""
        return len(self.values) > 1 and self.has_repeats and self.mean_length <= _MAX_LABEL_LENGTH

    @property
    def is_numeric(self) -> bool:
        """Whether nearly all cells are numeric."""
        return self.non_blank > 0 and self.numeric >= _MIN_NUMERIC_SHARE * self.non_blank

    @property
    def is_text(self) -> bool:
        """Whether the column looks like text: several words, or at least two that differ between rows."""
        if self.is_numeric or (len(self.values) == 1 and self.non_blank > 1):
            return False
        return self.has_many_words or (self.mean_words >= 2 and not self.has_repeats)

    @property
    def has_many_words(self) -> bool:
        """Whether cells have more words than typical labels."""
        return self.mean_words >= _MIN_TEXT_WORDS

    def __str__(self) -> str:
        """Describe the column, for messages."""
        return f"{len(self.values)} different values in {self.non_blank} rows"


def cell_text(value: object) -> str:
    """Convert a JSON or Parquet value to the text of a cell; empty if missing, or not a scalar or list."""
    if isinstance(value, list):
        return LABEL_SEPARATOR.join(map(str, value))
    return str(value) if isinstance(value, str | int | float | Decimal) and value == value else ""  # noqa: PLR0124 - NaN


def compute_statistics(rows: Sequence[Sequence[str]], width: int, *, multi_label: bool) -> tuple[ColumnStatistics, ...]:
    """Compute the statistics of each column.

    Args:
        rows: rows with `width` cells each.
        width: number of columns.
        multi_label: whether cells may contain several classes separated by `|`.
    """
    return tuple(
        _column_statistics([row[index].strip() for row in rows], multi_label=multi_label) for index in range(width)
    )


def _column_statistics(cells: Sequence[str], *, multi_label: bool) -> ColumnStatistics:
    values = [cell for cell in cells if cell]
    counts = Counter(_split_classes(values) if multi_label else values)
    return ColumnStatistics(
        rows=len(cells),
        non_blank=len(values),
        unique_values=sum(count == 1 for count in counts.values()),
        numeric=sum(map(is_number, values)),
        names=sum(map(is_name, values)),
        possible_names=sum(map(is_possible_name, values)),
        mean_length=sum(map(len, values)) / max(len(values), 1),
        mean_words=sum(len(cell.split()) for cell in values) / max(len(values), 1),
        values=frozenset(counts),
    )


def _split_classes(cells: Iterable[str]) -> Iterable[str]:
    return (name.strip() for cell in cells for name in cell.split(LABEL_SEPARATOR))
