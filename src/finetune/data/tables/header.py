"""Decides whether the first row of a table is a header.

pandas and Hugging Face datasets treat the first row as a header; this module does so unless its cells resemble those of
the other rows. The likelihood that a record would look like the first row is estimated from the other rows. A short
cell above sentences, a word above numbers, or a unique value in a column of repeated values is unlikely for a record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from finetune.config.hyperparameters import DataSpec
from finetune.data.readers.channel_files import some_of
from finetune.data.tables.column_statistics import (
    ColumnStatistics,
    compute_statistics,
    is_name,
    is_number,
    is_possible_name,
)
from finetune.data.tables.columns import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS
from finetune.errors import UserError

USUAL_TEXT_COLUMNS = frozenset(TEXT_COLUMNS) | {name for pair in PAIR_COLUMNS for name in pair}
"""Usual names of text columns."""
_UNAMBIGUOUS_LIKELIHOOD = 0.001
"""Likelihood of a record below which a header needs no warning."""
_AMBIGUOUS_LIKELIHOOD = 0.02
"""Likelihood of a record at or above which the user has to decide."""
_USUAL_NAME_FACTOR, _SENTENCE_FACTOR, _UNKNOWN_CLASS_FACTOR = 0.1, 30.0, 0.01
"""Factors of the likelihood of a record: a usual column name, a cell that is no name, a class not in class_names."""


class Header(NamedTuple):
    """Decision on the first row of a table.

    Attributes:
        is_header: whether the row is a header rather than a record.
        warning: warning about the decision, to follow the file name; empty if it is unambiguous.
    """

    is_header: bool
    warning: str = ""


def detect_header(first: Sequence[str], others: Sequence[Sequence[str]], spec: DataSpec, where: str) -> Header:
    """Decide whether the first row of a table is a header.

    With `header=auto`, the row is a header if it contains a column set by a hyperparameter, `label` or `labels`, or
    usual names of both a label and a text. Otherwise it is a record if it has a number above numbers or a repeated
    value; if neither applies, the likelihood of such a record decides.

    Args:
        first: cells of the first row without surrounding blanks.
        others: subsequent rows with the same number of cells, except copies of the first row.
        spec: data hyperparameters.
        where: channel and file, for messages.

    Raises:
        UserError: if the decision is ambiguous.
    """
    shown_row = f"line 1 ({some_of([repr(cell) for cell in first], 6)})"
    if spec.header != "auto":
        names = spec.header == "false" and has_usual_names(
            first, spec.model_copy(update={"label_column": None, "text_column": None})
        )
        return Header(
            spec.header == "true", f"{shown_row} looks like a header; read as a record (header=false)" if names else ""
        )
    if has_usual_names(first, spec):
        return Header(True)
    statistics = compute_statistics(others, len(first), multi_label=spec.multi_label)
    if _are_column_numbers(first) and not all(column.is_numeric for column in statistics):
        return Header(True, f"{shown_row} is read as the header (column numbers); set header=false if it is a record")
    if not others or _is_record(first, statistics, spec):
        return Header(False)
    likelihood = _record_likelihood(first, statistics, spec)
    if likelihood < _AMBIGUOUS_LIKELIHOOD and all(not cell or is_name(cell) for cell in first):
        warning = f"{shown_row} is read as the header; set header=false if it is a record"
        return Header(True, warning if likelihood >= _UNAMBIGUOUS_LIKELIHOOD else "")
    if likelihood >= _AMBIGUOUS_LIKELIHOOD and not all(not cell or is_name(cell) for cell in first):
        return Header(False)
    raise UserError(
        f"{where}: cannot determine whether {shown_row} is a header or a record, since its values occur in no other "
        "row. Set header=true if it contains column names (with label_column and text_column if these are unusual), or "
        f"header=false if it is a record of class {some_of([repr(first[0])])}"
    )


def _are_column_numbers(first: Sequence[str]) -> bool:
    """Return whether the row may be pandas' header for unnamed columns (0, 1, ...)."""
    return len(first) > 1 and list(first) == [str(number) for number in range(len(first))]


def _is_record(first: Sequence[str], statistics: Sequence[ColumnStatistics], spec: DataSpec) -> bool:
    """Return whether a cell is repeated, is a number above numbers, or is a declared class name."""
    if len(set(first)) < len(first) or set(first) & set(spec.class_names):
        return True
    return any(
        cell and (cell in column.values or (is_number(cell) and column.is_numeric))
        for cell, column in zip(first, statistics, strict=True)
    )


def _record_likelihood(first: Sequence[str], statistics: Sequence[ColumnStatistics], spec: DataSpec) -> float:
    likelihood = math.prod(_cell_likelihood(cell, column) for cell, column in zip(first, statistics, strict=True))
    if {cell.lower() for cell in first} & {*LABEL_COLUMNS, *USUAL_TEXT_COLUMNS}:
        likelihood *= _USUAL_NAME_FACTOR
    if spec.class_names and any(column.values <= set(spec.class_names) for column in statistics):
        likelihood *= _UNKNOWN_CLASS_FACTOR
    if not all(not cell or is_possible_name(cell) for cell in first):
        likelihood *= _SENTENCE_FACTOR
    return likelihood


def has_usual_names(first: Sequence[str], spec: DataSpec) -> bool:
    """Return whether the names in a row make it a header regardless of the other rows.

    These are a column set by a hyperparameter, `label` or `labels`, or usual names of both a label and a text.
    """
    requested = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if any(name in first or not name.isdecimal() for name in requested):
        return True
    lowercase = {cell.lower() for cell in first}
    unambiguous = lowercase & {"label", "labels"}
    return bool(unambiguous or (lowercase & set(LABEL_COLUMNS) and lowercase & set(TEXT_COLUMNS)))


def _cell_likelihood(cell: str, column: ColumnStatistics) -> float:
    """Return an upper bound on the likelihood that a record has such a cell in this column."""
    if not cell:
        matching = column.rows - column.non_blank
    elif is_name(cell):
        matching = column.names
    else:
        matching = column.possible_names if is_possible_name(cell) else column.rows
    likelihood = (matching + 1) / (column.rows + 1)
    unique_share = (column.unique_values + 1) / (column.non_blank + 1)
    return min(likelihood, unique_share) if cell and column.has_repeats else likelihood
