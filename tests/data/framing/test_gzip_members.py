"""Gzip detection, and reading of all members up to their checksums."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.gzip_members import decompress_gzip
from finetune.data.framing.window import DamagedStream
from tests.support.stream_writers import split_chunks

CHUNKS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
CONTENTS = st.lists(st.binary(max_size=200), min_size=1, max_size=4)


def decompress(stream: bytes, sizes: list[int]) -> bytes:
    return b"".join(map(bytes, decompress_gzip(split_chunks(stream, sizes))))


@given(CONTENTS, CHUNKS, st.integers(0, 20))
def test_members_are_decompressed_in_order(contents: list[bytes], sizes: list[int], zeros: int) -> None:
    stream = b"".join(gzip.compress(content, mtime=0) for content in contents) + bytes(zeros)
    assert decompress(stream, sizes) == b"".join(contents)


@given(st.binary(max_size=50).filter(lambda content: not content.startswith(b"\x1f\x8b")), CHUNKS)
def test_uncompressed_streams_are_unchanged(content: bytes, sizes: list[int]) -> None:
    assert decompress(content, sizes) == content


@given(CONTENTS, CHUNKS, st.data())
def test_truncated_member_raises(contents: list[bytes], sizes: list[int], data: st.DataObject) -> None:
    members = [gzip.compress(content, mtime=0) for content in contents]
    stream = b"".join(members)
    ends = [sum(map(len, members[:count])) for count in range(1, len(members) + 1)]
    length = data.draw(st.integers(2, len(stream)).filter(lambda length: length not in ends))
    with pytest.raises(DamagedStream, match="ends in the middle of a gzip member"):
        decompress(stream[:length], sizes)


def test_high_compression_ratio() -> None:
    content = bytes(5 << 20)
    assert decompress(gzip.compress(content), [1 << 20]) == content


def test_damaged_member_raises() -> None:
    stream = bytearray(gzip.compress(b"some text that is long enough", mtime=0))
    stream[-6] ^= 1
    with pytest.raises(DamagedStream, match="damaged gzip member"):
        decompress(bytes(stream), [7])
