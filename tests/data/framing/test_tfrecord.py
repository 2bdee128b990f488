"""TFRecord streams are read exactly, and both checksums detect damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.tfrecord import read_tfrecords
from finetune.data.framing.window import DamagedStream, Window
from tests.support.stream_writers import split_chunks, tfrecord

PAYLOADS = st.lists(st.binary(max_size=60), min_size=1, max_size=6)
CHUNKS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def read(stream: bytes, sizes: list[int]) -> list[bytes]:
    return [bytes(payload) for payload in read_tfrecords(Window(split_chunks(stream, sizes)))]


@given(PAYLOADS, CHUNKS)
def test_records_round_trip(payloads: list[bytes], sizes: list[int]) -> None:
    assert read(b"".join(map(tfrecord, payloads)), sizes) == payloads


@given(PAYLOADS, CHUNKS, st.data())
def test_truncated_stream_raises(payloads: list[bytes], sizes: list[int], data: st.DataObject) -> None:
    records = list(map(tfrecord, payloads))
    stream = b"".join(records)
    length = data.draw(st.integers(0, len(stream)))
    ends = [sum(map(len, records[:count])) for count in range(len(records) + 1)]
    if length in ends:
        assert read(stream[:length], sizes) == payloads[: ends.index(length)]
    else:
        with pytest.raises(DamagedStream, match="ends in the middle"):
            read(stream[:length], sizes)


@given(PAYLOADS, st.data())
def test_flipped_bits_are_detected(payloads: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(b"".join(map(tfrecord, payloads)))
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedStream, match="wrong checksum"):
        read(bytes(stream), [32])
