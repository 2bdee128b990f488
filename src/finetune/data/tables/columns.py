"""Chooses the label and text columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.hyperparameters import DataSpec
from finetune.data.readers.channel_files import some_of
from finetune.data.tables.column_facts import ENOUGH_ROWS, ColumnFacts
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
_CERTAIN_LABELS = frozenset({"label", "labels"})
_CERTAIN_TEXTS = frozenset({"text", "sentence"})

Facts = Mapping[str, ColumnFacts]


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

    def applied_to(self, spec: DataSpec, names: Sequence[str]) -> DataSpec:
        """Return the hyperparameters with the shared columns, if the table has them and the user sets no columns."""
        known = self._columns
        if known is None or not {known.label, *known.texts} <= set(names):
            return spec
        if (spec.label_column, spec.text_column, spec.text_pair_column) != (None, None, None):
            return spec
        return spec.model_copy(
            update={
                "label_column": known.label,
                "text_column": known.texts[0],
                "text_pair_column": known.texts[1] if len(known.texts) > 1 else None,
            }
        )

    def note(self, columns: Columns) -> None:
        """Store the columns of a table with column names, unless columns are already stored."""
        self._columns = self._columns or columns


def choose_columns(columns: Sequence[str], spec: DataSpec, where: str, facts: Facts | None = None) -> Columns:
    """Choose the columns set by hyperparameters, else by usual names, else by content.

    Content decides only if exactly one column has few distinct short values (the label) or contains texts.

    Args:
        columns: names of all columns.
        spec: hyperparameters, with `label_column`, `text_column` and `text_pair_column`.
        where: channel and file, for messages.
        facts: statistics by column name, if the first rows are known.

    Raises:
        UserError: if a named column is missing or duplicated, or the choice is ambiguous.
    """
    facts = facts or {}
    texts = {spec.text_column, spec.text_pair_column}
    others = [name for name in columns if name not in texts]
    label = _there("label_column", spec.label_column or _label(others, facts, where), columns, where)
    if label is None:
        raise UserError(
            f"{where}: no column has a usual name of a label ({', '.join(LABEL_COLUMNS)}), and content does not tell "
            f"which one it is; set label_column to one of: {_list(columns, facts)}"
        )
    text, pair = spec.text_column, spec.text_pair_column
    if text is None:
        text, usual_pair = _texts([name for name in columns if name not in {label, pair}], facts, where)
        pair = pair or usual_pair
    text = _there("text_column", text, columns, where)
    pair = _there("text_pair_column", pair, columns, where)
    if text is None:
        raise UserError(
            f"{where}: no column has a usual name of a text ({some_of(TEXT_COLUMNS, 8)}), and content does not tell "
            f"which one it is; set text_column, and text_pair_column for a second text, to one of: "
            f"{_list([name for name in columns if name != label], facts)}"
        )
    if spec.label_column is None or spec.text_column is None:
        check_not_swapped(label, text, facts, where)
    return Columns(label, (text,) if pair is None else (text, pair))


def choose_positions(count: int, spec: DataSpec, where: str, facts: Facts | None = None) -> Columns:
    """Choose columns of a table without a header: the label first, then one or two texts, or by zero-based number.

    Raises:
        UserError: if the number of columns leaves the roles open, or their content contradicts this order, and no
            hyperparameter decides.
    """
    facts = facts or {}
    numbers = tuple(str(number) for number in range(count))
    if spec.label_column is not None and spec.text_column is not None:
        return choose_columns(numbers, spec, where)
    given = [name for name in (spec.label_column, spec.text_column, spec.text_pair_column) if name is not None]
    if given or count not in {2, 3}:
        raise UserError(
            f"{where} has {count} columns and no header; expected are the label and one or two texts, in this order; "
            "otherwise set label_column and text_column to their numbers, from 0, or header=true if the first row "
            f"names the columns{f'. Columns: {_list(numbers, facts)}' if facts else ''}"
        )
    doubt = _doubt(numbers, facts)
    if doubt:
        raise UserError(
            f"{where} has no header, so column 0 should hold the label and the others texts, but {doubt}; set "
            "label_column and text_column to the numbers of the columns, from 0, or header=true if line 1 names them. "
            f"Columns: {_list(numbers, facts)}"
        )
    return Columns("0", numbers[1:])


def _doubt(numbers: Sequence[str], facts: Facts) -> str:
    """Return evidence against the label being first and texts following; empty if there is none."""
    if not facts or facts["0"].rows < ENOUGH_ROWS:
        return ""
    if not facts["0"].repeats:
        return f"column 0 has {facts['0']}"
    for name in numbers[1:]:
        if facts[name].is_numeric or (len(numbers) > 2 and facts[name].may_be_label):
            return f"column {name} does not look like texts"
    return ""


def check_not_swapped(label: str, text: str, facts: Facts, where: str) -> None:
    """Refuse a label column that rarely repeats and is longer than the text.

    Raises:
        UserError: if the columns are probably swapped.
    """
    if label not in facts or text not in facts or facts[label].filled < ENOUGH_ROWS:
        return
    if not facts[label].repeats and facts[label].length > facts[text].length:
        raise UserError(
            f"{where}: column {label!r} would be the label, but it has {facts[label]}, which are longer than those of "
            f"column {text!r}; set label_column and text_column. Columns: {_list(list(facts), facts)}"
        )


def _there(hyperparameter: str, name: str | None, columns: Sequence[str], where: str) -> str | None:
    if name is None or list(columns).count(name) == 1:
        return name
    shown = some_of([repr(name)])
    fault = (
        f"no column {shown}{did_you_mean(name, columns)}" if name not in columns else f"more than one column {shown}"
    )
    raise UserError(f"{where}: {fault}; set {hyperparameter} to one of: {_list(columns)}")


def _label(columns: Sequence[str], facts: Facts, where: str) -> str | None:
    found = _usual(LABEL_COLUMNS, columns)
    if len(found) > 1 and found[0].lower() not in _CERTAIN_LABELS:
        found = [name for name in found if name in facts and facts[name].may_be_label] or found
    if len(found) > 1 and found[0].lower() not in _CERTAIN_LABELS:
        raise UserError(
            f"{where}: more than one column could be the label; set label_column to one of: {_list(found, facts)}"
        )
    if found:
        return found[0]
    texts = set(_usual(TEXT_COLUMNS, columns))
    if len(columns) == 2 and len(texts) == 1 and columns[0] in facts and facts[columns[0]].rows < ENOUGH_ROWS:
        return next(name for name in columns if name not in texts)
    plain = [name for name in columns if name in facts and name not in texts and facts[name].may_be_label]
    if len(plain) > 1:
        plain = [name for name in plain if not facts[name].is_wordy] or plain
    return plain[0] if len(plain) == 1 else None


def _texts(columns: Sequence[str], facts: Facts, where: str) -> tuple[str | None, str | None]:
    for first, second in PAIR_COLUMNS:
        pair = _usual([first], columns), _usual([second], columns)
        if all(pair):
            return pair[0][0], pair[1][0]
    if len(columns) == 1:
        return columns[0], None
    found = _usual(TEXT_COLUMNS, columns)
    if len(found) > 1 and found[0].lower() not in _CERTAIN_TEXTS:
        found = [name for name in found if name in facts and facts[name].is_text] or found
    if len(found) > 1 and found[0].lower() not in _CERTAIN_TEXTS:
        raise UserError(
            f"{where}: more than one column could be the text; set text_column, and text_pair_column for a second text,"
            f" to one of: {_list(found, facts)}"
        )
    if found:
        return found[0], None
    plain = [name for name in columns if name in facts and facts[name].is_text]
    return (plain[0], None) if len(plain) == 1 else (None, None)


def _usual(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns with the given names, in the order of the names; the first if names differ only in case."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return [by_name[name] for name in names if name in by_name]


def _list(columns: Sequence[str], facts: Facts | None = None) -> str:
    facts = facts or {}
    shown = [repr(name) + (f" ({facts[name]})" if name in facts else "") for name in columns]
    return some_of(shown, limit=6 if facts else 12)
