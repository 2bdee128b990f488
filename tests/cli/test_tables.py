"""Rows of CSV, TSV and JSON Lines, and the choice of their columns."""

from __future__ import annotations

import csv
import io

import pytest

from finetune.cli.tables import ChosenColumns, Row, TableColumns, choose_columns, read_json, read_separated
from finetune.errors import UserError

DETECT = TableColumns()


def separated(text: str, columns: TableColumns = DETECT, *, tabs: bool = False) -> list[Row]:
    return list(read_separated(io.BytesIO(text.encode()), columns, tabs=tabs))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\na,b\n", [Row(2, {"text": "a", "label": "b"})]),
        (
            '\ufeffText;Label\r\n"a;\nb";c\r\nd;e\r\n',
            [Row(2, {"Text": "a;\nb", "Label": "c"}), Row(4, {"Text": "d", "Label": "e"})],
        ),
        ("id|sentence\n1|a, b\n", [Row(2, {"id": "1", "sentence": "a, b"})]),
        ("a,b\n\nc,d\n", [Row(1, {"0": "a", "1": "b"}), Row(3, {"0": "c", "1": "d"})]),
        ("", []),
    ],
)
def test_rows_are_separated(text: str, expected: list[Row]) -> None:
    assert separated(text) == expected


def test_requested_name_makes_a_header() -> None:
    assert separated("a,b\nc,d\n", TableColumns(text="b")) == [Row(2, {"a": "c", "b": "d"})]
    assert len(separated("a,b\nc,d\n", TableColumns(text="1"))) == 2


def test_tabs_separate_tsv_alone() -> None:
    assert separated("text\tlabel\na, b\tc\n", tabs=True) == [Row(2, {"text": "a, b", "label": "c"})]


def test_faulty_rows_are_named() -> None:
    rows = separated('text,label\na,b,c\nd,e\n"f" g,h\ni,j\n')
    assert [row.line for row in rows] == [2, 3, 4, 5]
    assert rows[0].fault == "has 3 columns instead of 2; quote texts that contain the delimiter"
    assert (rows[2].fault or "").startswith("is not CSV: ")
    assert rows[1].fault is rows[3].fault is None


def test_other_encodings_are_faults() -> None:
    (row,) = read_separated(io.BytesIO("text\né\n".encode("latin-1")), DETECT, tabs=False)
    assert row.fault == "is not text in UTF-8"
    (row,) = read_json(io.BytesIO('{"text": "é"}\n'.encode("latin-1")))
    assert row.fault == "is not text in UTF-8"


def test_json_objects_are_rows() -> None:
    rows = list(read_json(io.BytesIO(b'{"text": "a"}\r\n\n[1]\n{"text": 2}\n')))
    assert [(row.line, row.cells) for row in rows] == [(1, {"text": "a"}), (3, {}), (4, {"text": 2})]
    assert (rows[1].fault or "").startswith("is not a JSON object")
    array = list(read_json(io.BytesIO(b'[{"text": "a"},\n {"text": "b"}]')))
    assert [row.cells for row in array] == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("names", "requested", "texts", "expected"),
    [
        (("id", "Text", "Label"), DETECT, 1, ChosenColumns(("Text",), "Label")),
        (("summary", "label"), DETECT, 1, ChosenColumns(("summary",), "label")),
        (("0",), DETECT, 1, ChosenColumns(("0",), None)),
        (("a", "b", "class"), TableColumns(text="b"), 1, ChosenColumns(("b",), "class")),
        (("a", "b", "class"), TableColumns(text="b", label="a"), 1, ChosenColumns(("b",), "a")),
        (("premise", "hypothesis", "id"), DETECT, 2, ChosenColumns(("premise", "hypothesis"), None)),
        (("a", "b", "c"), TableColumns(text="c", text_pair="a"), 2, ChosenColumns(("c", "a"), None)),
        (("record", "label", "image"), DETECT, 0, ChosenColumns(("image",), "label")),
        (("photo", "label"), DETECT, 0, ChosenColumns(("photo",), "label")),
        (("x", "y"), TableColumns(image="y"), 0, ChosenColumns(("y",), None)),
    ],
)
def test_columns_are_chosen(
    names: tuple[str, ...], requested: TableColumns, texts: int, expected: ChosenColumns
) -> None:
    assert choose_columns(names, requested, texts=texts) == expected


@pytest.mark.parametrize(
    ("names", "requested", "texts", "message"),
    [
        (("a", "b"), DETECT, 1, r"cannot determine the column of the 1 text\(s\); set --text-column to one of: a, b"),
        (("text", "label"), DETECT, 2, "set --text-column and --text-pair-column to one of: text, label"),
        (("a", "b"), DETECT, 0, "path of an image; set --image-column to one of: a, b"),
        (
            ("a", "text"),
            TableColumns(text="texts"),
            1,
            r"no column 'texts' \(did you mean 'text'\?\); columns: a, text",
        ),
    ],
)
def test_ambiguous_and_missing_columns_are_refused(
    names: tuple[str, ...], requested: TableColumns, texts: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_columns(names, requested, texts=texts)


def test_long_cells_do_not_change_the_limit_of_the_process() -> None:
    before = csv.field_size_limit()
    (row,) = read_separated([b"text\n", b"x" * 200_000 + b"\n"], TableColumns(), tabs=False)
    assert row.cells["text"] == "x" * 200_000
    assert csv.field_size_limit() == before
