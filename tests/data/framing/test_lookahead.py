"""Peeking at the first rows changes nothing about the stream, including the position of damage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from finetune.data.framing.lookahead import MAX_BYTES, MAX_ROWS, look_ahead
from finetune.data.framing.window import DamagedStream


@pytest.mark.parametrize(("size", "seen"), [(1, MAX_ROWS), (MAX_BYTES // 4, 4), (2 * MAX_BYTES, 1)])
def test_few_rows_are_waited_for_and_all_are_given(size: int, seen: int) -> None:
    waiting = iter([bytes(size)] * (MAX_ROWS + 5))
    first, rows = look_ahead(waiting)
    assert len(first) == seen
    assert len(list(waiting)) == MAX_ROWS + 5 - seen
    assert len(list(rows)) == seen


def test_a_stream_that_ends_early_is_given_whole() -> None:
    first, rows = look_ahead(iter([b"a", b"b"]))
    assert first == list(rows) == [b"a", b"b"]


def test_damage_comes_behind_the_rows_before_it() -> None:
    def damaged() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise DamagedStream("is cut", 7)

    first, rows = look_ahead(damaged())
    assert first == [next(rows), next(rows)]
    with pytest.raises(DamagedStream, match="is cut"):
        next(rows)
