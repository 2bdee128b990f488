"""The stream window gives a parser the exact bytes, without unneeded copies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.window import Window
from tests.support.stream_writers import beside, cut

STREAM = bytes(range(256)) * 4
SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=5)
WANTED = st.lists(st.integers(0, 400), max_size=40)


@given(SIZES, WANTED, st.booleans())
def test_any_chunks_give_the_same_bytes(sizes: list[int], wanted: list[int], together: bool) -> None:
    window = Window(beside(STREAM, sizes) if together else cut(STREAM, sizes))
    at = 0
    for count in wanted:
        assert window.offset == at
        if not window.reach(count):
            assert at + count > len(STREAM)
            break
        assert bytes(window.take(count, "a test")) == STREAM[at : at + count]
        at += count


def test_chunks_that_lie_beside_each_other_are_not_copied() -> None:
    window = Window(memoryview(STREAM)[start : start + 100] for start in range(0, len(STREAM), 100))
    assert all(window.take(64, "a test").obj is STREAM for _ in range(16))


def test_the_same_chunk_again_is_not_taken_for_what_follows_it() -> None:
    half = memoryview(STREAM)[:100]
    window = Window([half, half, memoryview(STREAM)[300:400]])
    assert window.reach(300)
    assert bytes(window.take(300, "a test")) == bytes(half) * 2 + STREAM[300:400]
