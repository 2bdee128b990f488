"""Lines are split exactly at their line ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.lines import line_end, read_lines
from finetune.data.framing.window import Window
from tests.support.stream_writers import split_chunks

CHUNKS = st.lists(st.integers(1, 20), min_size=1, max_size=5)
TEXTS = st.text(alphabet=st.sampled_from(["a", "é", "\u2028", "\x85", "\r", '"', ",", "\n", " "]), max_size=8)


@given(st.lists(TEXTS.map(lambda text: text.replace("\n", "")), max_size=6), CHUNKS, st.booleans())
def test_lines_are_split_at_line_feeds(lines: list[str], sizes: list[int], has_final_line_end: bool) -> None:
    stream = "\n".join(lines).encode() + (b"\n" if has_final_line_end and lines else b"")
    expected = stream.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [bytes(line) for line in read_lines(Window(split_chunks(stream, sizes)))] == expected


@pytest.mark.parametrize("sizes", [[1], [3], [100]])
def test_carriage_returns_end_lines_if_there_is_no_line_feed(sizes: list[int]) -> None:
    window = Window(split_chunks(b"one\rtwo\r\rthree", sizes))
    end = line_end(window)
    assert end == b"\r"
    assert [bytes(line) for line in read_lines(window, end)] == [b"one", b"two", b"", b"three"]


@pytest.mark.parametrize("content", [b"one\r\ntwo\r\n", b"one\rtwo\n", b"one"])
def test_other_lines_end_at_line_feeds(content: bytes) -> None:
    assert line_end(Window([content])) == b"\n"
