"""Headers are recognized by their names, or by the rows that follow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune.data.tables.header import Header, detect_header
from finetune.errors import UserError
from tests.support.labelled_data import data_spec

SENTENCES = ("it was a fine evening", "nothing of it works, sadly", "would buy it again", "the worst of all")


@pytest.mark.parametrize(
    ("row", "spec", "expected"),
    [
        ("label,text", {}, True),
        ("Label,whatever", {}, True),
        ("intent,utterance", {}, True),
        ("0,some text", {}, False),
        ("question,where is it?", {}, False),
        ("y,yes", {}, False),
        ("stars,words", {"label_column": "stars"}, True),
        ("stars,words", {"label_column": "star"}, True),
        ("5,words", {"label_column": "0", "text_column": "1"}, False),
        ("label,text", {"header": "false"}, False),
        ("0,words", {"header": "true"}, True),
    ],
)
def test_header_is_detected_by_names(row: str, spec: dict[str, object], expected: bool) -> None:
    assert detect_header(row.split(","), [], data_spec(**spec), "a.csv").is_header is expected


def table(first: str, labels: Sequence[str], texts: Sequence[str] = SENTENCES, count: int = 12) -> list[list[str]]:
    rows = [[labels[index % len(labels)], texts[index % len(texts)]] for index in range(count)]
    return [first.split(","), *rows]


def detect(rows: list[list[str]], **spec: object) -> Header:
    return detect_header(rows[0], rows[1:], data_spec(**spec), "a.csv")


@pytest.mark.parametrize(
    ("first", "labels", "texts", "spec"),
    [
        ("stars,words", ["1", "5", "3"], SENTENCES, {}),
        ("stars,words", ["1", "5", "3"], ("fine", "well", "poor"), {}),
        ("topic,utterance", ["a", "b"], SENTENCES, {}),
        ("category,Words used", ["a", "b"], SENTENCES, {}),
        ("spam,hello", ["a", "b"], SENTENCES, {}),
        ("kind,words", ["a", "b"], SENTENCES, {"class_names": ("a", "b")}),
    ],
)
def test_header_with_unusual_names_is_detected_from_other_rows(
    first: str, labels: list[str], texts: tuple[str, ...], spec: dict[str, object]
) -> None:
    assert detect(table(first, labels, texts), **spec).is_header


@pytest.mark.parametrize(
    ("first", "labels", "spec"),
    [
        ("spam,buy our pills now and save.", ["a", "b"], {}),
        ("spam,hello!", ["a", "b"], {}),
        ("7,hello", ["1", "2"], {}),
        ("a,hello", ["a", "b"], {}),
        ("c,hello", ["a", "b"], {"class_names": ("a", "b", "c")}),
    ],
)
def test_first_row_similar_to_other_rows_is_a_record(first: str, labels: list[str], spec: dict[str, object]) -> None:
    assert detect(table(first, labels), **spec) == (False, "")


def test_ambiguous_header_raises() -> None:
    rows = [["spam", "hello"], *([label, f"word{number}{label}"] for number in range(12) for label in ("a", "b"))][:13]
    with pytest.raises(
        UserError,
        match=r"a\.csv: cannot determine whether line 1 \('spam', 'hello'\) is a header or a record.*header=false",
    ):
        detect(rows)
    assert detect(rows, header="true").is_header
    assert not detect(rows, header="false").is_header


def test_column_numbers_above_texts_are_a_header() -> None:
    header = detect(table("0,1", ["1", "2", "3"]))
    assert header.is_header
    assert "(column numbers); set header=false if it is a record" in header.warning


def test_header_with_many_rows_needs_no_warning() -> None:
    rows = table("library,docstring", ["a", "b"], count=280)
    assert detect(rows) == (True, "")
    assert "line 1 ('library', 'docstring') is read as the header" in detect(rows[:13]).warning


PLAUSIBLE = (
    *("label,text", "text,label", "intent,utterance", "emotion,tweet", "language,text", "spam,message"),
    *("id,text,label", "Unnamed: 0,text,label", "library,docstring", "topic,headline", "genre,plot"),
    *("product,complaint", "tag,question_text", "rating,review_text", "stars,review_body", "department,ticket"),
    *("species,notes", "docstring,library", "headline,topic", "text,language", "subject,priority"),
    *("sentence,polarity", "title,abstract,category"),
)
TEXT_FIRST = {"text", "docstring", "headline", "subject", "sentence"}


@pytest.mark.parametrize("header", PLAUSIBLE)
def test_plausible_headers_are_detected(header: str) -> None:
    names = header.split(",")
    rows = []
    for number in range(40):
        label, text = ("numpy", "json")[number % 2], f"Return the value, number {number}, of what was given."
        pair = [text, label] if names[0] in TEXT_FIRST or len(names) == 3 else [label, text]
        rows.append(pair if len(names) == 2 else [str(number), *pair])
    assert detect_header(names, rows, data_spec(), "a.csv").is_header
