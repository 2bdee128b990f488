"""Is a stream compressed, and what is in it?

The platform inflates what it was told is compressed. Where the request does not say so, gzip members arrive one after
another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from finetune.data.framing.window import Chunk, DamagedStream

MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS
_MOST_AT_ONCE = 1 << 20


def inflated(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Give the chunks as they are, or, where the first bytes say gzip, what all members hold.

    Offsets of what is read from here on count inflated bytes.

    Raises:
        DamagedStream: a member is damaged or cut off, or something else follows a member.
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
            # Some writers fill up the last member with zeros.
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
