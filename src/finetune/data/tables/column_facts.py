"""Column statistics that distinguish labels, texts, numbers and names in the first rows of a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune.data.label_parsing import LABEL_SEPARATOR

ENOUGH_ROWS = 10
"""Minimum number of rows for rejecting a column without repeated values as a label."""

_NAME = re.compile(r"[^\W\d]\w*(?:(?:[ ./:#-]|: )\w+){0,2}[?:]?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:[.,][0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?%?")
_LONGEST_NAME = 40
_LONGEST_LABEL = 60
_MOST_WORDS = 7
_NEARLY_ALL = 0.9
_WORDY = 3


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    return _NUMBER.fullmatch(cell) is not None


def is_name(cell: str) -> bool:
    """Return whether a cell looks like a column name: up to three words."""
    return len(cell) <= _LONGEST_NAME and _NAME.fullmatch(cell) is not None


def may_be_name(cell: str) -> bool:
    """Return whether a cell could be a long column name: up to seven words, without end-of-sentence punctuation."""
    return is_name(cell) or (
        len(cell) <= _LONGEST_LABEL
        and len(cell.split()) <= _MOST_WORDS
        and not is_number(cell)
        and cell[-1:] not in (".", "!")
        and "," not in cell
    )


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Statistics of the cells of one column.

    Attributes:
        rows: number of cells, including blank ones.
        filled: number of non-blank cells.
        once: number of values that occur exactly once.
        numbers: number of numeric cells.
        names: number of cells that look like column names.
        possible_names: number of cells that could be column names.
        length: mean length of non-blank cells in characters.
        words: mean number of words in non-blank cells.
        values: distinct values of non-blank cells; individual classes if cells contain several.
    """

    rows: int
    filled: int
    once: int
    numbers: int
    names: int
    possible_names: int
    length: float
    words: float
    values: frozenset[str]

    @property
    def repeats(self) -> bool:
        """Whether values repeat, as in a label column: on average each occurs at least twice."""
        return 2 * len(self.values) <= self.filled

    @property
    def may_be_label(self) -> bool:
        """Whether the column looks like a label: two or more short values that repeat."""
        return len(self.values) > 1 and self.repeats and self.length <= _LONGEST_LABEL

    @property
    def is_numeric(self) -> bool:
        """Whether nearly all cells are numeric."""
        return self.filled > 0 and self.numbers >= _NEARLY_ALL * self.filled

    @property
    def is_text(self) -> bool:
        """Whether the column looks like text: several words, or at least two that differ between rows."""
        if self.is_numeric or (len(self.values) == 1 and self.filled > 1):
            return False
        return self.is_wordy or (self.words >= 2 and not self.repeats)

    @property
    def is_wordy(self) -> bool:
        """Whether cells have more words than typical labels."""
        return self.words >= _WORDY

    def __str__(self) -> str:
        """Describe the column, for messages."""
        return f"{len(self.values)} different values in {self.filled} rows"


def text_of(value: object) -> str:
    """Convert a JSON or Parquet value to the text of a cell; empty if missing, or not a scalar or list."""
    if isinstance(value, list):
        return LABEL_SEPARATOR.join(map(str, value))
    return str(value) if isinstance(value, str | int | float | Decimal) and value == value else ""  # noqa: PLR0124 - NaN


def facts_of(rows: Sequence[Sequence[str]], width: int, *, multi_label: bool) -> tuple[ColumnFacts, ...]:
    """Compute the statistics of each column.

    Args:
        rows: rows with `width` cells each.
        width: number of columns.
        multi_label: whether cells may contain several classes separated by `|`.
    """
    return tuple(_facts([row[at].strip() for row in rows], multi_label=multi_label) for at in range(width))


def _facts(cells: Sequence[str], *, multi_label: bool) -> ColumnFacts:
    filled = [cell for cell in cells if cell]
    counts = Counter(_classes(filled) if multi_label else filled)
    return ColumnFacts(
        rows=len(cells),
        filled=len(filled),
        once=sum(count == 1 for count in counts.values()),
        numbers=sum(map(is_number, filled)),
        names=sum(map(is_name, filled)),
        possible_names=sum(map(may_be_name, filled)),
        length=sum(map(len, filled)) / max(len(filled), 1),
        words=sum(len(cell.split()) for cell in filled) / max(len(filled), 1),
        values=frozenset(counts),
    )


def _classes(cells: Iterable[str]) -> Iterable[str]:
    return (part.strip() for cell in cells for part in cell.split(LABEL_SEPARATOR))
