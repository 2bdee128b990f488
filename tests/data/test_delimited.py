"""CSV and TSV: what other writers wrote is read back, and what would swallow rows is refused."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finetune.data.delimited import CSV_DELIMITERS, TSV_DELIMITERS, long_fields, read_delimited
from finetune.errors import DataError
from labelled_data import write_files

Rows = list[tuple[int, list[str]]]

# Without carriage returns: most writers leave them bare, although readers end a line there.
cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1))


def rows_of(content: bytes, delimiters: str = CSV_DELIMITERS) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(content)
        return list(read_delimited("train", Path(folder), "data", delimiters))


@given(tables, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]))
def test_what_the_standard_library_writes_is_read_back(table: list[list[str]], quoting: int, end: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]  # a constant of csv
    writer.writerows(table)
    assert [row for _, row in rows_of(file.getvalue().encode())] == table


@given(tables, st.sampled_from([",", "\t"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_what_pandas_writes_is_read_back(table: list[list[str]], delimiter: str, encoding: str) -> None:
    text = pd.DataFrame(table, dtype=object).to_csv(sep=delimiter, index=False, header=False)
    delimiters = CSV_DELIMITERS if delimiter == "," else TSV_DELIMITERS
    if delimiter == "\t" and any("\t" in cell or "\n" in cell for row in table for cell in row):
        # Where tabs divide every line into equally many columns nonetheless, marks are characters.
        assume(len({line.count("\t") for line in text.split("\n") if line}) > 1)
    assert [row for _, row in rows_of(text.encode(encoding), delimiters)] == table


def test_quoted_carriage_returns_are_kept() -> None:
    assert rows_of(b'a,"one\rtwo\r\nthree"\r\nb,c\r\n') == [(1, ["a", "one\rtwo\r\nthree"]), (4, ["b", "c"])]


def test_a_row_has_the_number_of_the_line_on_which_it_begins() -> None:
    content = b'label,text\n\na,"two\nlines"\n   \nb,"three\r\nmore\r\nlines"\r\nc,one\n'
    assert [number for number, _ in rows_of(content)] == [1, 3, 6, 9]


def test_a_bare_mark_in_plain_tabs_is_a_character() -> None:
    content = b'a\t"Quote that never ends\nb\tends here"\nc\t"quoted ""whole"""\nd\t5" disk\n'
    assert [row for _, row in rows_of(content, TSV_DELIMITERS)] == [
        ["a", '"Quote that never ends'],
        ["b", 'ends here"'],
        ["c", 'quoted "whole"'],
        ["d", '5" disk'],
    ]


def test_quoted_tabs_and_line_breaks_are_read_where_lines_differ() -> None:
    content = b'a\t"one\ttwo"\nb\t"three\nfour"\n'
    assert [row for _, row in rows_of(content, TSV_DELIMITERS)] == [["a", "one\ttwo"], ["b", "three\nfour"]]


def test_semicolons_and_tabs_in_csv_are_seen() -> None:
    assert rows_of(b"label;text\na;b, c\n") == [(1, ["label", "text"]), (2, ["a", "b, c"])]
    assert rows_of(b"label\ttext\na\tb, c\n") == [(1, ["label", "text"]), (2, ["a", "b, c"])]


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'a,b\nc,"never\nends\n', 2), (b'a,b\nc,d\ne,"ends" early\n', 3)],
)
def test_a_stray_mark_is_named_with_its_line(content: bytes, line: int) -> None:
    with pytest.raises(DataError, match=rf"'train': data, line {line}: .*quotation marks"):
        rows_of(content)


def test_very_long_fields_are_read_and_the_limit_is_put_back() -> None:
    before = csv.field_size_limit()
    text = "long " * 60_000
    with long_fields():
        assert rows_of(f'a,"{text}"\n'.encode()) == [(1, ["a", text])]
    assert csv.field_size_limit() == before
    with pytest.raises(RuntimeError, match="inside"), long_fields():
        raise RuntimeError("inside")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("label,text\n1,café\n".encode("latin-1"), r"byte 0xe9 at offset 16, line 2; .*iconv -f WINDOWS-1252 -t UTF-8"),
        ("label,text\n".encode("utf-16"), r"byte 0xff at offset 0, line 1; .*iconv -f UTF-16 -t UTF-8"),
        (b"label,text\n" * 100_000 + b"1,\xe2\x82", r"byte 0xe2 at offset 1100002, line 100001"),
    ],
)
def test_another_encoding_is_named_with_its_place_and_the_way_out(content: bytes, fault: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"a.csv": content})
    with pytest.raises(DataError, match=rf"'train': a\.csv is not UTF-8: {fault}"):
        list(read_delimited("train", tmp_path, "a.csv", CSV_DELIMITERS))
