"""Table columns: by name, guessed, or by position."""

from __future__ import annotations

import pytest

from finetune.data.tables.columns import Columns, choose_columns, choose_positions
from finetune.errors import UserError
from tests.support.labelled_data import data_spec


def choose(names: str, **spec: object) -> Columns:
    return choose_columns(names.split(), data_spec(**spec), "channel 'train', a.csv")


@pytest.mark.parametrize(
    ("names", "label", "texts"),
    [
        ("text label", "label", ("text",)),
        ("idx Sentence LABEL", "LABEL", ("Sentence",)),
        ("id category review stars", "category", ("review",)),
        ("idx sentence1 sentence2 label", "label", ("sentence1", "sentence2")),
        ("hypothesis premise label", "label", ("premise", "hypothesis")),
        ("text text_pair label text_length", "label", ("text", "text_pair")),
        ("question answer y", "y", ("question", "answer")),
        ("sentiment words", "sentiment", ("words",)),
        ("label class text", "label", ("text",)),
        ("Label label text Text", "Label", ("text",)),
    ],
)
def test_usual_column_names_are_recognized(names: str, label: str, texts: tuple[str, ...]) -> None:
    assert choose(names) == Columns(label, texts)


def test_hyperparameters_override_usual_names() -> None:
    assert choose("label text other note", label_column="other", text_column="note") == Columns("other", ("note",))
    assert choose("label text other", text_pair_column="other") == Columns("label", ("text", "other"))
    assert choose("label sentence1 sentence2", text_column="sentence1") == Columns("label", ("sentence1",))


@pytest.mark.parametrize("hyperparameter", ["label_column", "text_column", "text_pair_column"])
def test_missing_column_is_reported_with_existing_columns(hyperparameter: str) -> None:
    with pytest.raises(UserError) as caught:
        choose("sentiment content text", **{hyperparameter: "sentimnt"})
    message = str(caught.value)
    assert message.startswith("channel 'train', a.csv: no column 'sentimnt' (did you mean 'sentiment'?)")
    assert f"set {hyperparameter} to one of: 'sentiment', 'content', 'text'" in message


def test_duplicate_column_is_rejected() -> None:
    with pytest.raises(UserError, match="more than one column 'a'"):
        choose("a a text", label_column="a")
    with pytest.raises(UserError, match="more than one column 'text'; set text_column to one of"):
        choose("label text text")


def test_undetermined_columns_are_reported_with_hyperparameter() -> None:
    with pytest.raises(
        UserError, match=r"cannot determine the label column: .*set label_column to one of: 'stars', 'text'"
    ):
        choose("stars text")
    with pytest.raises(UserError, match=r"cannot determine the text column: .*set text_column, .*to one of: 'a', 'b'"):
        choose("label a b")


def test_error_about_long_column_names_is_short() -> None:
    with pytest.raises(UserError) as caught:
        choose_columns(["word " * 5000] * 30, data_spec(label_column="x"), "a.csv")
    assert len(str(caught.value)) < 700


def test_label_comes_first_without_header() -> None:
    assert choose_positions(2, data_spec(), "a.csv") == Columns("0", ("1",))
    assert choose_positions(3, data_spec(), "a.csv") == Columns("0", ("1", "2"))
    assert choose_positions(5, data_spec(label_column="4", text_column="2"), "a.csv") == Columns("4", ("2",))


@pytest.mark.parametrize(("count", "spec"), [(1, {}), (4, {}), (2, {"label_column": "1"})])
def test_other_tables_without_header_need_column_numbers(count: int, spec: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"a\.csv has {count} columns and no header.*set label_column and text_column"):
        choose_positions(count, data_spec(**spec), "a.csv")
