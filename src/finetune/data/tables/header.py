"""Decides whether the first row of a table names its columns.

As pandas and Hugging Face datasets have it, the first row is a header; here it is unless its cells are like those below
it. How likely a record would look as the first row does is estimated from the other rows: a short cell above sentences,
a word above numbers, or a value that no other row has although all others repeat is unlikely for a record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from finetune.config.hyperparameters import DataSpec
from finetune.data.readers.channel_files import some_of
from finetune.data.tables.column_facts import ColumnFacts, facts_of, is_name, is_number, may_be_name
from finetune.data.tables.columns import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS
from finetune.errors import UserError

USUAL_TEXTS = frozenset(TEXT_COLUMNS) | {name for pair in PAIR_COLUMNS for name in pair}
"""Usual names of columns of texts."""
_CERTAIN = 0.001
"""Likelihood of a record below which a header needs no warning."""
_LIKELY = 0.02
"""Likelihood of a record from which on the user is asked."""
_USUAL_NAME, _SENTENCE, _UNKNOWN_CLASS = 0.1, 30.0, 0.01
"""Factors of the likelihood of a record: one usual name, a cell that is no name, a class that class_names lacks."""


class Header(NamedTuple):
    """The decision on the first row of a table.

    Attributes:
        is_there: whether it is a header and no record.
        remark: what the user should know of the decision, to follow the name of the file; empty where it is plain.
    """

    is_there: bool
    remark: str = ""


def find_header(first: Sequence[str], others: Sequence[Sequence[str]], spec: DataSpec, where: str) -> Header:
    """Decide whether the first row of a table names its columns.

    With `header=auto`, a column that a hyperparameter names, `label` or `labels`, or usual names of both a label and a
    text make a header. Otherwise a number above numbers or a cell that comes again makes a record, and the likelihood
    of such a record decides.

    Args:
        first: cells of the first row, without surrounding blanks.
        others: rows after it that have as many cells and are not equal to it.
        spec: the hyperparameters.
        where: channel and file, for messages.

    Raises:
        UserError: the row could be either.
    """
    shown = f"line 1 ({some_of([repr(cell) for cell in first], 6)})"
    if spec.header != "auto":
        names = spec.header == "false" and has_usual_names(
            first, spec.model_copy(update={"label_column": None, "text_column": None})
        )
        return Header(
            spec.header == "true", f"{shown} looks like a header, but is read as a record as asked" if names else ""
        )
    if has_usual_names(first, spec):
        return Header(True)
    facts = facts_of(others, len(first), multi_label=spec.multi_label)
    if _are_numbers_of_columns(first) and not all(column.is_numeric for column in facts):
        return Header(
            True, f"{shown} is taken as the header, the numbers of the columns; set header=false if it is a record"
        )
    if not others or _is_record(first, facts, spec):
        return Header(False)
    likelihood = _likelihood_of_record(first, facts, spec)
    if likelihood < _LIKELY and all(not cell or is_name(cell) for cell in first):
        remark = f"{shown} is taken as the header; set header=false if it is a record"
        return Header(True, remark if likelihood >= _CERTAIN else "")
    if likelihood >= _LIKELY and not all(not cell or is_name(cell) for cell in first):
        return Header(False)
    raise UserError(
        f"{where}: is {shown} a header or a record? Its values come in no other row, as names of columns, but could be "
        f"those of a record of class {some_of([repr(first[0])])}. Set header=true if it names the columns, and "
        "label_column and text_column if their names are not usual ones; set header=false if it is a record"
    )


def _are_numbers_of_columns(first: Sequence[str]) -> bool:
    """Whether pandas may have written the row for columns without names."""
    return len(first) > 1 and list(first) == [str(number) for number in range(len(first))]


def _is_record(first: Sequence[str], facts: Sequence[ColumnFacts], spec: DataSpec) -> bool:
    """Whether a cell comes twice or again, is a number above numbers, or is announced as a class."""
    if len(set(first)) < len(first) or set(first) & set(spec.class_names):
        return True
    return any(
        cell and (cell in column.values or (is_number(cell) and column.is_numeric))
        for cell, column in zip(first, facts, strict=True)
    )


def _likelihood_of_record(first: Sequence[str], facts: Sequence[ColumnFacts], spec: DataSpec) -> float:
    likelihood = math.prod(_likelihood(cell, column) for cell, column in zip(first, facts, strict=True))
    if {cell.lower() for cell in first} & {*LABEL_COLUMNS, *USUAL_TEXTS}:
        likelihood *= _USUAL_NAME
    if spec.class_names and any(column.values <= set(spec.class_names) for column in facts):
        likelihood *= _UNKNOWN_CLASS
    if not all(not cell or may_be_name(cell) for cell in first):
        likelihood *= _SENTENCE
    return likelihood


def has_usual_names(first: Sequence[str], spec: DataSpec) -> bool:
    """Whether a row has names that make it a header whatever follows.

    These are a column that a hyperparameter names, `label` or `labels`, or usual names of both a label and a text.
    """
    named = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if any(name in first or not name.isdecimal() for name in named):
        return True
    lowered = {cell.lower() for cell in first}
    certain = lowered & {"label", "labels"}
    return bool(certain or (lowered & set(LABEL_COLUMNS) and lowered & set(TEXT_COLUMNS)))


def _likelihood(cell: str, column: ColumnFacts) -> float:
    """How likely a record has such a cell in this column, at most."""
    if not cell:
        alike = column.rows - column.filled
    elif is_name(cell):
        alike = column.names
    else:
        alike = column.possible_names if may_be_name(cell) else column.rows
    likelihood = (alike + 1) / (column.rows + 1)
    unseen = (column.once + 1) / (column.filled + 1)
    return min(likelihood, unseen) if cell and column.repeats else likelihood
