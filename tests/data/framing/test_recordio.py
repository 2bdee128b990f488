"""RecordIO streams are read exactly, for any content and any chunking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.recordio import Parts, read_recordio
from finetune.data.framing.window import DamagedStream, Window
from tests.support.stream_writers import MAGIC, escaped_recordio, join_parts, recordio, split_chunks, split_views

PIECES = st.lists(st.one_of(st.binary(max_size=9), st.just(MAGIC)), max_size=6).map(b"".join)
PAYLOADS = st.lists(PIECES, max_size=8)
CHUNKS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
RUNS = st.lists(st.tuples(PIECES, st.integers(1, 30)), max_size=6)
LARGE_CHUNKS = st.lists(st.integers(1, 2000), min_size=1, max_size=5)


def read(stream: bytes, sizes: list[int], parts: Parts = "auto") -> list[bytes]:
    return [bytes(payload) for payload in read_recordio(Window(split_chunks(stream, sizes)), parts)]


@given(PAYLOADS, CHUNKS)
def test_escaped_records_round_trip(payloads: list[bytes], sizes: list[int]) -> None:
    assert read(b"".join(map(escaped_recordio, payloads)), sizes, "escaped") == payloads
    assert read(b"".join(map(escaped_recordio, payloads)), sizes) == payloads


@given(PAYLOADS, CHUNKS)
def test_plain_records_round_trip(payloads: list[bytes], sizes: list[int]) -> None:
    assert read(b"".join(map(recordio, payloads)), sizes) == payloads


@given(RUNS, LARGE_CHUNKS)
def test_runs_of_records_of_equal_length_round_trip(runs: list[tuple[bytes, int]], sizes: list[int]) -> None:
    payloads = [payload for payload, count in runs for _ in range(count)]
    for write in (recordio, escaped_recordio):
        stream = b"".join(map(write, payloads))
        assert read(stream, sizes) == payloads
        assert [bytes(payload) for payload in read_recordio(Window(split_views(stream, sizes)))] == payloads


@given(st.integers(20, 60), st.integers(0, 3), LARGE_CHUNKS, st.data())
def test_damage_inside_a_run_raises_with_its_offset(
    count: int, byte: int, sizes: list[int], data: st.DataObject
) -> None:
    record_number = data.draw(st.integers(0, count - 1))
    stream = bytearray(recordio(b"abcdefgh") * count)
    stream[16 * record_number + byte] ^= 0xFF
    with pytest.raises(DamagedStream) as raised:
        read(bytes(stream), sizes)
    assert raised.value.offset == 16 * record_number


@given(st.lists(st.binary(max_size=9), min_size=2, max_size=5), CHUNKS)
def test_parts_split_at_any_position_are_joined(parts: list[bytes], sizes: list[int]) -> None:
    assert read(join_parts(parts), sizes, "plain") == [b"".join(parts)]
    between = b"" if any(len(part) % 4 for part in parts[:-1]) else MAGIC
    assert read(join_parts(parts), sizes) == [between.join(parts)]


@given(PAYLOADS.filter(bool), CHUNKS, st.data())
def test_truncated_stream_raises(payloads: list[bytes], sizes: list[int], data: st.DataObject) -> None:
    records = list(map(escaped_recordio, payloads))
    stream = b"".join(records)
    ends = {sum(map(len, records[:count])): count for count in range(len(records) + 1)}
    length = data.draw(st.integers(0, len(stream)))
    if length in ends:
        assert read(stream[:length], sizes) == payloads[: ends[length]]
    else:
        with pytest.raises(DamagedStream, match="ends in the middle"):
            read(stream[:length], sizes)


def test_damage_raises_with_its_offset() -> None:
    stream = recordio(b"good") + b"\0" * 8
    with pytest.raises(DamagedStream, match="0x00000000 instead of the RecordIO magic word 0xced7230a") as raised:
        read(stream, [5])
    assert raised.value.offset == 12


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (recordio(b"abcd", 3), "flag 3 at the start of a record; expected 0 or 1"),
        (recordio(b"abcd", 1) + recordio(b"efgh", 0), "flag 0 inside a split record; expected 2 or 3"),
        (recordio(b"abcd", 1) + recordio(b"efgh", 1), "flag 1 inside a split record; expected 2 or 3"),
        (recordio(b"abcd", 5), "unknown flag 5"),
        (recordio(b"abcd", 1), "ends in the middle"),
    ],
)
def test_parts_out_of_order_raise(stream: bytes, reason: str) -> None:
    with pytest.raises(DamagedStream, match=reason):
        read(stream, [64])


def test_yielded_views_stay_valid() -> None:
    payloads = [bytes([record_number]) * 50 for record_number in range(40)]
    views = list(read_recordio(Window(split_chunks(b"".join(map(recordio, payloads)), [64]))))
    assert [bytes(view) for view in views] == payloads
