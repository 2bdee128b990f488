"""Which columns of a table hold the label and the texts?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.channel_files import some_of
from finetune.errors import UserError, did_you_mean
from finetune.spec.job_spec import DataSpec

LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "intent", "sentiment", "y")
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "answer"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "question", "premise", "sentence1", "question1", "text_a", "text1"),
    *("comment", "tweet", "message", "document", "utterance", "body", "description", "source"),
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the chosen columns.

    Attributes:
        label: of the class.
        texts: of the one or two texts.
    """

    label: str
    texts: tuple[str, ...]


def choose_columns(columns: Sequence[str], spec: DataSpec, where: str) -> Columns:
    """Take the columns that hyperparameters name, and the usual ones where they name none.

    Args:
        columns: names of all columns.
        spec: with `label_column`, `text_column` and `text_pair_column`.
        where: channel and file, for messages.

    Raises:
        UserError: a named column is not there or is there twice, or none has a usual name.
    """
    texts = {spec.text_column, spec.text_pair_column}
    others = [name for name in columns if name not in texts]
    label = _there("label_column", spec.label_column or _usual(LABEL_COLUMNS, others), columns, where)
    if label is None:
        raise UserError(
            f"{where}: no column has a usual name of a label ({', '.join(LABEL_COLUMNS)}); set label_column to one of: "
            f"{_list(columns)}"
        )
    text, pair = spec.text_column, spec.text_pair_column
    if text is None:
        text, usual_pair = _usual_texts([name for name in columns if name not in {label, pair}])
        pair = pair or usual_pair
    text = _there("text_column", text, columns, where)
    pair = _there("text_pair_column", pair, columns, where)
    if text is None:
        raise UserError(
            f"{where}: no column has a usual name of a text ({some_of(TEXT_COLUMNS, 8)}); set text_column to one of: "
            f"{_list(columns)}"
        )
    return Columns(label, (text,) if pair is None else (text, pair))


def choose_positions(count: int, spec: DataSpec, where: str) -> Columns:
    """Take columns of a table without header: the label first, then one or two texts; or by number, from 0.

    Raises:
        UserError: the number of columns does not say which holds what, and no hyperparameter does.
    """
    numbers = tuple(str(number) for number in range(count))
    if spec.label_column is not None and spec.text_column is not None:
        return choose_columns(numbers, spec, where)
    given = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if given or count not in {2, 3}:
        raise UserError(
            f"{where} has {count} columns and no header; expected are the label and one or two texts, in this order; "
            "otherwise set label_column and text_column to their numbers, from 0, or header=true if the first row "
            "names the columns"
        )
    return Columns("0", numbers[1:])


def _there(hyperparameter: str, name: str | None, columns: Sequence[str], where: str) -> str | None:
    if name is None or list(columns).count(name) == 1:
        return name
    shown = some_of([repr(name)])
    fault = (
        f"no column {shown}{did_you_mean(name, columns)}" if name not in columns else f"more than one column {shown}"
    )
    raise UserError(f"{where}: {fault}; set {hyperparameter} to one of: {_list(columns)}")


def _usual(names: Sequence[str], columns: Sequence[str]) -> str | None:
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _usual_texts(columns: Sequence[str]) -> tuple[str | None, str | None]:
    for first, second in PAIR_COLUMNS:
        pair = _usual([first], columns), _usual([second], columns)
        if None not in pair:
            return pair
    if len(columns) == 1:
        return columns[0], None
    return _usual(TEXT_COLUMNS, columns), None


def _list(columns: Sequence[str]) -> str:
    return some_of([repr(name) for name in columns], limit=12)
