"""CSV and TSV round trips with other writers; a stray quotation mark costs one row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.readers.channel_files import list_files
from finetune.data.tables.delimited import Dialect, UnclosedQuote, split_cells, split_rows
from finetune.data.tables.reader import read_text_tables
from finetune.errors import DataError
from tests.support.labelled_data import data_spec, write_files

Rows = list[tuple[int, list[str]]]

# Without carriage returns: most writers do not quote them, although readers treat them as line ends.
cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1))


def parse_rows(content: bytes, dialect: Dialect = Dialect(",")) -> Rows:  # noqa: B008 - frozen
    return [
        (row.line, [str(cell) for cell in split_cells(row.content.decode(), dialect)])
        for row in split_rows(content.removesuffix(b"\n").split(b"\n"), dialect)
    ]


@given(tables, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]))
def test_standard_library_round_trip(table: list[list[str]], quoting: int, end: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]  # a constant of csv
    writer.writerows(table)
    assert [row for _, row in parse_rows(file.getvalue().encode())] == table


@given(tables, st.sampled_from([",", "\t", ";", "|"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_pandas_round_trip(table: list[list[str]], delimiter: str, encoding: str) -> None:
    text = pd.DataFrame(table, dtype=object).to_csv(sep=delimiter, index=False, header=False)
    assert [row for _, row in parse_rows(text.encode(encoding), Dialect(delimiter))] == table


def test_quoted_carriage_returns_are_kept() -> None:
    assert parse_rows(b'a,"one\rtwo\r\nthree"\r\nb,c\r\n') == [(1, ["a", "one\rtwo\r\nthree"]), (3, ["b", "c"])]


def test_row_number_is_its_first_line() -> None:
    content = b'label,text\n\na,"two\nlines"\n   \nb,"three\r\nmore\r\nlines"\r\nc,one\n'
    assert [number for number, _ in parse_rows(content)] == [1, 3, 6, 9]


def test_unpaired_quote_in_plain_tsv_is_a_character() -> None:
    content = b'a\t"Quote that never ends\nb\tends here"\nc\t"quoted ""whole"""\nd\t5" disk\n'
    assert [row for _, row in parse_rows(content, Dialect("\t", "plain"))] == [
        ["a", '"Quote that never ends'],
        ["b", 'ends here"'],
        ["c", 'quoted "whole"'],
        ["d", '5" disk'],
    ]


def test_quoted_tabs_and_line_breaks_are_read() -> None:
    content = b'a\t"one\ttwo"\nb\t"three\nfour"\n'
    assert [row for _, row in parse_rows(content, Dialect("\t"))] == [["a", "one\ttwo"], ["b", "three\nfour"]]


def test_doubled_carriage_returns_end_a_line() -> None:
    assert parse_rows(b"a,one\r\r\nb,two\r\r\n") == [(1, ["a", "one"]), (2, ["b", "two"])]


@pytest.mark.parametrize("content", [b'a,"b" c', b'a,"b"" c', b'"a" ,b', b"a,b\rc"])
def test_misplaced_quotes_and_carriage_returns_are_rejected(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"has a (quotation mark|carriage return)"):
        split_cells(content.decode(), Dialect(","))


def test_stray_quote_affects_one_row() -> None:
    content = b'a,"opens here\nb,fine\nc,"closes"\nd,"ends" early\ne,5" disk'
    rows = list(split_rows(content.split(b"\n"), Dialect(",")))
    assert [(row.line, row.content) for row in rows] == list(enumerate(content.split(b"\n"), start=1))


def test_unclosed_quote_is_reported_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UnclosedQuote) as caught:
        parse_rows(b'a,b\nc,"never\nends\n')
    assert (caught.value.line, caught.value.offset) == (2, 4)
    write_files(tmp_path, {"a.csv": b'label,text\na,b\nc,"never\nends\n'})
    with pytest.raises(DataError, match=r"'train', a\.csv, line 3 has an unclosed quotation mark"):
        read_text_tables(list_files("train", tmp_path), data_spec())


def test_very_long_fields_are_read() -> None:
    text = "long " * 60_000
    assert parse_rows(f'a,"{text}"\n'.encode()) == [(1, ["a", text])]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("label,text\n1,café\n".encode("latin-1"), r"byte 0xe9 at offset 16, line 2; .*iconv -f WINDOWS-1252 -t UTF-8"),
        ("label,text\n".encode("utf-16"), r"byte 0xff at offset 0, line 1; .*iconv -f UTF-16 -t UTF-8"),
        (b"label,text\n" + b"0,some text\n" * 100_000 + b"1,\xe2\x82", r"byte 0xe2 at offset 1200013, line 100002"),
    ],
)
def test_invalid_encoding_is_reported_with_location_and_remedy(content: bytes, fault: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"a.csv": content})
    with pytest.raises(DataError, match=rf"'train'.* is not UTF-8: {fault}"):
        read_text_tables(list_files("train", tmp_path), data_spec())
