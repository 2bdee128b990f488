"""Detects and decompresses gzip streams.

SageMaker decompresses streams that the request declares as compressed. Without that declaration, the gzip members
arrive one after another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from finetune.data.framing.window import Chunk, DamagedStream

MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS
_MOST_AT_ONCE = 1 << 20


def inflated(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks unchanged, or decompress all members if the first bytes are gzip.

    Offsets in the resulting stream count decompressed bytes.

    Raises:
        DamagedStream: if a member is damaged or truncated, or is followed by other data.
    """
    iterator = iter(chunks)
    first = b""
    while len(first) < len(MAGIC):
        chunk = next(iterator, None)
        if chunk is None:
            break
        first = bytes(chunk) if not first else first + bytes(chunk)
        if not first.startswith(MAGIC[: len(first)]):
            break
    if not first.startswith(MAGIC):
        if first:
            yield first
        yield from iterator
        return
    yield from _members(_chain(first, iterator))


def _chain(first: bytes, rest: Iterable[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def _members(chunks: Iterable[Chunk]) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP)
    begun, given = False, 0
    for chunk in chunks:
        pending, full = bytes(chunk), False
        while pending or full:
            # Some writers pad the last member with zeros.
            pending = pending if begun else pending.lstrip(b"\0")
            if not pending and not begun:
                break
            begun = True
            try:
                piece = member.decompress(pending, _MOST_AT_ONCE)
            except zlib.error as error:
                raise DamagedStream(f"has a damaged gzip member ({error})", given) from error
            if piece:
                given += len(piece)
                yield piece
            pending, full = member.unconsumed_tail, len(piece) == _MOST_AT_ONCE
            if member.eof:
                pending, full = member.unused_data, False
                member, begun = zlib.decompressobj(_GZIP), False
    if begun:
        raise DamagedStream("ends in the middle of a gzip member", given)
