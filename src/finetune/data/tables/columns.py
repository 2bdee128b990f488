"""Chooses the label and text columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.hyperparameters import DataSpec
from finetune.data.readers.channel_files import some_of
from finetune.data.tables.column_statistics import MIN_ROWS, ColumnStatistics
from finetune.errors import UserError, did_you_mean

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
_UNAMBIGUOUS_LABELS = frozenset({"label", "labels"})
_UNAMBIGUOUS_TEXTS = frozenset({"text", "sentence"})

Statistics = Mapping[str, ColumnStatistics]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the chosen columns.

    Attributes:
        label: label column.
        texts: one or two text columns.
    """

    label: str
    texts: tuple[str, ...]


class SharedColumns:
    """Columns of the first table of a job, reused for other tables with columns of the same names."""

    def __init__(self) -> None:
        """Initialize without columns."""
        self._columns: Columns | None = None

    def apply_to(self, spec: DataSpec, names: Sequence[str]) -> DataSpec:
        """Return the hyperparameters with the shared columns, if the table has them and the user sets no columns."""
        shared = self._columns
        if shared is None or not {shared.label, *shared.texts} <= set(names):
            return spec
        if (spec.label_column, spec.text_column, spec.text_pair_column) != (None, None, None):
            return spec
        return spec.model_copy(
            update={
                "label_column": shared.label,
                "text_column": shared.texts[0],
                "text_pair_column": shared.texts[1] if len(shared.texts) > 1 else None,
            }
        )

    def store(self, columns: Columns) -> None:
        """Store the columns of a table with column names, unless columns are already stored."""
        self._columns = self._columns or columns


def choose_columns(columns: Sequence[str], spec: DataSpec, where: str, statistics: Statistics | None = None) -> Columns:
    """Choose the columns set by hyperparameters, else by usual names, else by content.

    Content decides only if exactly one column has few distinct short values (the label) or contains texts.

    Args:
        columns: names of all columns.
        spec: hyperparameters, with `label_column`, `text_column` and `text_pair_column`.
        where: channel and file, for messages.
        statistics: statistics by column name, if the first rows are known.

    Raises:
        UserError: if a named column is missing or duplicated, or the choice is ambiguous.
    """
    statistics = statistics or {}
    texts = {spec.text_column, spec.text_pair_column}
    others = [name for name in columns if name not in texts]
    label = _check_column("label_column", spec.label_column or _choose_label(others, statistics, where), columns, where)
    if label is None:
        raise UserError(
            f"{where}: cannot determine the label column: no column has a usual name ({', '.join(LABEL_COLUMNS)}) or "
            f"unambiguous content; set label_column to one of: {_list_columns(columns, statistics)}"
        )
    text, pair = spec.text_column, spec.text_pair_column
    if text is None:
        text, usual_pair = _choose_texts([name for name in columns if name not in {label, pair}], statistics, where)
        pair = pair or usual_pair
    text = _check_column("text_column", text, columns, where)
    pair = _check_column("text_pair_column", pair, columns, where)
    if text is None:
        raise UserError(
            f"{where}: cannot determine the text column: no column has a usual name ({some_of(TEXT_COLUMNS, 8)}) or "
            "unambiguous content; set text_column, and text_pair_column for a second text, to one of: "
            f"{_list_columns([name for name in columns if name != label], statistics)}"
        )
    if spec.label_column is None or spec.text_column is None:
        check_not_swapped(label, text, statistics, where)
    return Columns(label, (text,) if pair is None else (text, pair))


def choose_positions(count: int, spec: DataSpec, where: str, statistics: Statistics | None = None) -> Columns:
    """Choose columns of a table without a header: the label first, then one or two texts, or by zero-based number.

    Raises:
        UserError: if the number of columns leaves the roles open, or their content contradicts this order, and no
            hyperparameter decides.
    """
    statistics = statistics or {}
    numbers = tuple(str(number) for number in range(count))
    if spec.label_column is not None and spec.text_column is not None:
        return choose_columns(numbers, spec, where)
    requested = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if requested or count not in {2, 3}:
        raise UserError(
            f"{where} has {count} columns and no header; expected a label and one or two texts, in this order; "
            "otherwise set label_column and text_column to column numbers, from 0, or header=true if the first row "
            f"contains column names{f'. Columns: {_list_columns(numbers, statistics)}' if statistics else ''}"
        )
    contradiction = _order_contradiction(numbers, statistics)
    if contradiction:
        raise UserError(
            f"{where} has no header; expected labels in column 0 and texts in the others, but {contradiction}; set "
            "label_column and text_column to column numbers, from 0, or header=true if line 1 contains column names. "
            f"Columns: {_list_columns(numbers, statistics)}"
        )
    return Columns("0", numbers[1:])


def _order_contradiction(numbers: Sequence[str], statistics: Statistics) -> str:
    """Return evidence against the label being first and texts following; empty if there is none."""
    if not statistics or statistics["0"].rows < MIN_ROWS:
        return ""
    if not statistics["0"].has_repeats:
        return f"column 0 has {statistics['0']}"
    for name in numbers[1:]:
        if statistics[name].is_numeric or (len(numbers) > 2 and statistics[name].is_possible_label):
            return f"column {name} does not look like texts"
    return ""


def check_not_swapped(label: str, text: str, statistics: Statistics, where: str) -> None:
    """Refuse a label column that rarely repeats and is longer than the text.

    Raises:
        UserError: if the columns are probably swapped.
    """
    if label not in statistics or text not in statistics or statistics[label].non_blank < MIN_ROWS:
        return
    if not statistics[label].has_repeats and statistics[label].mean_length > statistics[text].mean_length:
        raise UserError(
            f"{where}: column {label!r} does not look like labels: it has {statistics[label]}, longer than those of "
            f"column {text!r}; set label_column and text_column. Columns: "
            f"{_list_columns(list(statistics), statistics)}"
        )


def _check_column(hyperparameter: str, name: str | None, columns: Sequence[str], where: str) -> str | None:
    if name is None or list(columns).count(name) == 1:
        return name
    shown = some_of([repr(name)])
    problem = (
        f"no column {shown}{did_you_mean(name, columns)}" if name not in columns else f"more than one column {shown}"
    )
    raise UserError(f"{where}: {problem}; set {hyperparameter} to one of: {_list_columns(columns)}")


def _choose_label(columns: Sequence[str], statistics: Statistics, where: str) -> str | None:
    matches = _columns_named(LABEL_COLUMNS, columns)
    if len(matches) > 1 and matches[0].lower() not in _UNAMBIGUOUS_LABELS:
        matches = [name for name in matches if name in statistics and statistics[name].is_possible_label] or matches
    if len(matches) > 1 and matches[0].lower() not in _UNAMBIGUOUS_LABELS:
        raise UserError(
            f"{where}: more than one column could be the label; set label_column to one of: "
            f"{_list_columns(matches, statistics)}"
        )
    if matches:
        return matches[0]
    texts = set(_columns_named(TEXT_COLUMNS, columns))
    if len(columns) == 2 and len(texts) == 1 and columns[0] in statistics and statistics[columns[0]].rows < MIN_ROWS:
        return next(name for name in columns if name not in texts)
    candidates = [
        name for name in columns if name in statistics and name not in texts and statistics[name].is_possible_label
    ]
    if len(candidates) > 1:
        candidates = [name for name in candidates if not statistics[name].has_many_words] or candidates
    return candidates[0] if len(candidates) == 1 else None


def _choose_texts(columns: Sequence[str], statistics: Statistics, where: str) -> tuple[str | None, str | None]:
    for first, second in PAIR_COLUMNS:
        pair = _columns_named([first], columns), _columns_named([second], columns)
        if all(pair):
            return pair[0][0], pair[1][0]
    if len(columns) == 1:
        return columns[0], None
    matches = _columns_named(TEXT_COLUMNS, columns)
    if len(matches) > 1 and matches[0].lower() not in _UNAMBIGUOUS_TEXTS:
        matches = [name for name in matches if name in statistics and statistics[name].is_text] or matches
    if len(matches) > 1 and matches[0].lower() not in _UNAMBIGUOUS_TEXTS:
        raise UserError(
            f"{where}: more than one column could be the text; set text_column, and text_pair_column for a second text,"
            f" to one of: {_list_columns(matches, statistics)}"
        )
    if matches:
        return matches[0], None
    candidates = [name for name in columns if name in statistics and statistics[name].is_text]
    return (candidates[0], None) if len(candidates) == 1 else (None, None)


def _columns_named(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns with the given names, in the order of the names; the first if names differ only in case."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return [by_name[name] for name in names if name in by_name]


def _list_columns(columns: Sequence[str], statistics: Statistics | None = None) -> str:
    statistics = statistics or {}
    shown = [repr(name) + (f" ({statistics[name]})" if name in statistics else "") for name in columns]
    return some_of(shown, limit=6 if statistics else 12)
