"""The stream window gives a parser the exact bytes, without unneeded copies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.window import Window
from tests.support.stream_writers import split_chunks, split_views

STREAM = bytes(range(256)) * 4
SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=5)
COUNTS = st.lists(st.integers(0, 400), max_size=40)


@given(SIZES, COUNTS, st.booleans())
def test_chunking_does_not_change_the_bytes(sizes: list[int], counts: list[int], adjacent: bool) -> None:
    window = Window(split_views(STREAM, sizes) if adjacent else split_chunks(STREAM, sizes))
    position = 0
    for count in counts:
        assert window.offset == position
        if not window.reach(count):
            assert position + count > len(STREAM)
            break
        assert bytes(window.take(count, "a test")) == STREAM[position : position + count]
        position += count


def test_adjacent_chunks_are_not_copied() -> None:
    window = Window(memoryview(STREAM)[start : start + 100] for start in range(0, len(STREAM), 100))
    assert all(window.take(64, "a test").obj is STREAM for _ in range(16))


def test_repeated_chunk_is_not_treated_as_adjacent() -> None:
    chunk = memoryview(STREAM)[:100]
    window = Window([chunk, chunk, memoryview(STREAM)[300:400]])
    assert window.reach(300)
    assert bytes(window.take(300, "a test")) == bytes(chunk) * 2 + STREAM[300:400]
