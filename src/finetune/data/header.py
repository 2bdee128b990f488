"""Does a table begin with a row that names its columns?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from finetune.data.channel_files import some_of
from finetune.data.columns import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS, Columns, choose_positions
from finetune.data.label_names import label_names
from finetune.errors import UserError
from finetune.spec.job_spec import DataSpec

_NAME = re.compile(r"[^\W\d]\w*(?:[ ./-]\w+){0,2}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TEXTS = frozenset(TEXT_COLUMNS) | {name for pair in PAIR_COLUMNS for name in pair}
_ENOUGH = 2
"""Signs that make a header; one could also be a rare class in the first row, which must stay a record."""
_FEW = 0.05
"""Share of texts that may be short words though texts are not."""
_MANY = 10
"""Rows from which on a class that has but one of them is worth a warning."""


class Header(NamedTuple):
    """What the first row of a table is.

    Attributes:
        is_there: whether it is a header and no record.
        chooses: whether its names tell which column is which; otherwise places do, as without a header.
        remark: what the user should know of the decision, to follow the name of the file; empty where it is plain.
    """

    is_there: bool
    chooses: bool = False
    remark: str = ""


def find_header(first: Sequence[str], others: Iterable[Sequence[str]], spec: DataSpec) -> Header:
    """Tell whether the first row of a table names its columns.

    With `header=auto` it does where it holds a column that a hyperparameter names, `label` or `labels`, or both a
    usual name of a label and one of a text. A hyperparameter that names a column other than by its number takes a
    header for granted. Other rows of names are told by what follows them: the label must not come again, and two signs
    must speak for a header.

    Args:
        first: cells of the first row, without surrounding blanks.
        others: the rows behind it; read no further than it takes.
        spec: what the user says.
    """
    if spec.header != "auto":
        return Header(spec.header == "true", chooses=True)
    if _has_usual_names(first, spec):
        return Header(True, chooses=True)
    try:
        columns = choose_positions(len(first), spec, "")
    except UserError:  # Whoever chooses the columns says what to do.
        return Header(False)
    if len(set(first)) < len(first) or not all(map(_is_name, first)):
        return Header(False)
    return _judge(first, others, spec, columns)


def _has_usual_names(first: Sequence[str], spec: DataSpec) -> bool:
    named = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if any(name in first or not name.isdecimal() for name in named):
        return True
    lowered = {cell.lower() for cell in first}
    certain = lowered & {"label", "labels"}
    return bool(certain or (lowered & set(LABEL_COLUMNS) and lowered & set(TEXT_COLUMNS)))


def _is_name(cell: str) -> bool:
    return len(cell) <= 40 and _NAME.fullmatch(cell) is not None


def _judge(first: Sequence[str], others: Iterable[Sequence[str]], spec: DataSpec, columns: Columns) -> Header:
    label_at, text_at = int(columns.label), [int(name) for name in columns.texts]
    label = first[label_at]
    classes: Counter[str] = Counter()
    rows = short = 0
    for row in others:
        if len(row) != len(first):
            continue
        names = _names(row[label_at], spec)
        if label in names:
            return Header(False)
        classes.update(names)
        rows += 1
        short += all(_is_name(row[at].strip()) for at in text_at)
    signs = {
        "the other labels are numbers": bool(classes) and all(map(_NUMBER.fullmatch, classes)),
        "the other texts are no such words": rows > 0 and short <= _FEW * rows,
        "it has a usual name of a column": label.lower() in LABEL_COLUMNS
        or any(first[at].lower() in _TEXTS for at in text_at),
        "class_names lacks it": bool(spec.class_names) and label not in spec.class_names,
    }
    seen = [sign for sign, holds in signs.items() if holds]
    shown = f"the first row ({some_of([repr(cell) for cell in first])})"
    alone = f"no other row has the label {label!r}"
    if rows and len(seen) >= _ENOUGH:
        reasons = ", ".join([alone, *seen])
        remark = f"{shown} is taken for names of columns: {reasons}. Set header=false if it is a record"
        return Header(True, remark=remark)
    if rows and (seen or (rows >= _MANY and min(classes.values(), default=0) > 1)):
        remark = f"{shown} is taken for a record, though {', '.join([alone, *seen])}"
        advice = "Set header=true, and label_column to the label's, if it names columns; header=false if it is a record"
        return Header(False, remark=f"{remark}. {advice}")
    return Header(False)


def _names(cell: str, spec: DataSpec) -> tuple[str, ...]:
    try:
        return label_names(cell, multi_label=spec.multi_label)
    except ValueError:
        return ()
