"""Detects and decompresses gzip streams.

SageMaker decompresses streams that the request declares as compressed. Without that declaration, the gzip members
arrive one after another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from finetune.data.framing.window import Chunk, DamagedStream

MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_MAX_OUTPUT_BYTES = 1 << 20


def decompress_gzip(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks unchanged, or decompress all members if the first bytes are gzip.

    Offsets in the resulting stream count decompressed bytes.

    Raises:
        DamagedStream: if a member is damaged or truncated, or is followed by other data.
    """
    iterator = iter(chunks)
    prefix = b""
    while len(prefix) < len(MAGIC):
        chunk = next(iterator, None)
        if chunk is None:
            break
        prefix = bytes(chunk) if not prefix else prefix + bytes(chunk)
        if not prefix.startswith(MAGIC[: len(prefix)]):
            break
    if not prefix.startswith(MAGIC):
        if prefix:
            yield prefix
        yield from iterator
        return
    yield from _decompress_members(_prepend(prefix, iterator))


def _prepend(prefix: bytes, remaining: Iterable[Chunk]) -> Iterator[Chunk]:
    yield prefix
    yield from remaining


def _decompress_members(chunks: Iterable[Chunk]) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP_WBITS)
    started, offset = False, 0
    for chunk in chunks:
        pending, is_full = bytes(chunk), False
        while pending or is_full:
            # Some writers pad the last member with zeros.
            pending = pending if started else pending.lstrip(b"\0")
            if not pending and not started:
                break
            started = True
            try:
                piece = member.decompress(pending, _MAX_OUTPUT_BYTES)
            except zlib.error as error:
                raise DamagedStream(f"contains a damaged gzip member ({error})", offset) from error
            if piece:
                offset += len(piece)
                yield piece
            pending, is_full = member.unconsumed_tail, len(piece) == _MAX_OUTPUT_BYTES
            if member.eof:
                pending, is_full = member.unused_data, False
                member, started = zlib.decompressobj(_GZIP_WBITS), False
    if started:
        raise DamagedStream("ends in the middle of a gzip member", offset)
