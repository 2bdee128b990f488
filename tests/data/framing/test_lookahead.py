"""Peeking at the first rows changes nothing about the stream, including the position of damage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from finetune.data.framing.lookahead import MAX_BYTES, MAX_ROWS, look_ahead
from finetune.data.framing.window import DamagedStream


@pytest.mark.parametrize(("size", "count"), [(1, MAX_ROWS), (MAX_BYTES // 4, 4), (2 * MAX_BYTES, 1)])
def test_lookahead_is_limited_and_keeps_all_rows(size: int, count: int) -> None:
    source = iter([bytes(size)] * (MAX_ROWS + 5))
    buffered, rows = look_ahead(source)
    assert len(buffered) == count
    assert len(list(source)) == MAX_ROWS + 5 - count
    assert len(list(rows)) == count


def test_short_stream_is_returned_completely() -> None:
    buffered, rows = look_ahead(iter([b"a", b"b"]))
    assert buffered == list(rows) == [b"a", b"b"]


def test_damage_is_raised_after_the_preceding_rows() -> None:
    def damaged() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise DamagedStream("is cut", 7)

    buffered, rows = look_ahead(damaged())
    assert buffered == [next(rows), next(rows)]
    with pytest.raises(DamagedStream, match="is cut"):
        next(rows)
