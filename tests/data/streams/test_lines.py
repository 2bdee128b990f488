"""Are lines and rows cut where they end, and nowhere else?"""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.streams.lines import read_lines, read_rows
from finetune.data.streams.window import DamagedStream, Window
from stream_writers import cut

CHUNKS = st.lists(st.integers(1, 20), min_size=1, max_size=5)
TEXTS = st.text(alphabet=st.sampled_from(["a", "é", "\u2028", "\x85", "\r", '"', ",", "\n", " "]), max_size=8)


@given(st.lists(TEXTS.map(lambda text: text.replace("\n", "")), max_size=6), CHUNKS, st.booleans())
def test_lines_come_back(lines: list[str], sizes: list[int], ended: bool) -> None:
    stream = "\n".join(lines).encode() + (b"\n" if ended and lines else b"")
    expected = stream.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [bytes(line) for line in read_lines(Window(cut(stream, sizes)))] == expected


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=3), max_size=6), CHUNKS)
def test_rows_come_back_whatever_their_fields_hold(rows: list[list[str]], sizes: list[int]) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    found = [bytes(row) for row in read_rows(Window(cut(file.getvalue().encode(), sizes)))]
    assert [next(csv.reader(io.StringIO(row.decode(), newline=""))) for row in found] == rows


def test_a_quotation_mark_that_is_never_closed() -> None:
    with pytest.raises(DamagedStream, match="quotation mark is not closed") as caught:
        list(read_rows(Window([b'1,good\n0,"open\n1,more\n'])))
    assert caught.value.offset == 7
