"""Reads files from a stream of tar archives.

`tarfile` is not suitable: on a stream it stops after the first of several archives or silently skips damaged headers,
and it is many times slower for small files.
Formats: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from finetune.data.framing.window import MAX_RECORD_BYTES, DamagedStream, Window

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_POSIX = b"ustar\0"
_FIELDS = struct.Struct("100s24x12s12x8ss100x6s82x155s12x")
"""Name, size, checksum, type, magic and prefix."""

_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX, _PAX_GLOBAL = tarfile.XHDTYPE, tarfile.XGLTYPE
_SPARSE = tarfile.GNUTYPE_SPARSE
_EXTENSIONS = frozenset({_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL})
_PAX_KEYS = frozenset({"path", "size"})


class Header(NamedTuple):
    """Fields of a header block, before extended headers are applied.

    Attributes:
        name: path, truncated to 100 or 255 bytes if an extended header contains the full path.
        size: content size in bytes.
        type: one byte, as in `tarfile`.
    """

    name: str
    size: int
    type: bytes


def read_header(block: bytes) -> Header:
    """Parse a header block and verify its checksum.

    Raises:
        ValueError: if the block is not a header.
    """
    name, size, checksum, type_flag, magic, prefix = _FIELDS.unpack(block)
    # The lower half of Adler-32 is 1 plus the sum of the bytes modulo 65,521, which 512 ASCII bytes cannot reach.
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    total += 8 * ord(" ") - sum(checksum)
    stored = _number(checksum)
    # Some old writers sum signed bytes.
    signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) if total != stored else total
    if stored not in (total, signed):
        raise ValueError("bad checksum")
    path = name.partition(b"\0")[0]
    if magic == _POSIX and prefix[0]:
        path = prefix.partition(b"\0")[0] + b"/" + path
    return Header(path.decode("utf-8", "surrogateescape"), _number(size), type_flag)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


@dataclass(slots=True)
class _HeaderOverrides:
    """Values from extended headers that apply to the next member."""

    archive: dict[str, str] = field(default_factory=dict)
    member: dict[str, str] = field(default_factory=dict)

    def apply(self, header: Header) -> Header:
        if not self.member and not self.archive:
            return header
        if any(key.startswith("GNU.sparse") for key in self.member):
            header = header._replace(type=_SPARSE)
        values = self.archive | self.member
        return header._replace(name=values.get("path") or header.name, size=int(values.get("size") or header.size))


def read_tar(window: Window, on_archive_end: Callable[[], None] | None = None) -> Iterator[tuple[str, memoryview]]:
    """Yield the name and content of every regular file of all archives.

    Args:
        window: the stream.
        on_archive_end: called after the last file of each archive.

    Raises:
        DamagedStream: if a header is damaged, a file is sparse, or the stream ends inside an archive.
    """
    overrides, in_archive = _HeaderOverrides(), False
    while window.reach(_BLOCK):
        offset = window.offset
        block = bytes(window.view[window.position : window.position + _BLOCK])
        if block == _ZEROS:
            window.position += _BLOCK
            if in_archive and on_archive_end is not None:
                on_archive_end()
            overrides, in_archive = _HeaderOverrides(), False
            continue
        in_archive = True
        try:
            header = read_header(block)
        except ValueError as error:
            raise DamagedStream(f"has a damaged tar header ({error})", offset) from error
        if header.type in _EXTENSIONS:
            _read_extension(overrides, header.type, bytes(_read_content(window, header.size, offset)), offset)
            continue
        member = overrides.apply(header)
        content = _read_content(window, member.size, offset)
        if member.type == _SPARSE:
            raise DamagedStream(f"contains the sparse file {member.name}; create the archive without --sparse", offset)
        if member.type in _FILES and not member.name.endswith("/"):
            yield member.name, content
        overrides.member = {}
    if not window.at_end():
        raise DamagedStream("ends in the middle of a tar block", window.offset)
    if in_archive:
        raise DamagedStream("ends before the end-of-archive marker of a tar archive", window.offset)


def _read_content(window: Window, size: int, offset: int) -> memoryview:
    if not 0 <= size <= MAX_RECORD_BYTES:
        raise DamagedStream(f"has a tar member of {size:,} bytes; the maximum is {MAX_RECORD_BYTES:,}", offset)
    window.position += _BLOCK
    padded = -(-size // _BLOCK) * _BLOCK
    if not window.reach(padded):
        raise DamagedStream("ends in the middle of a tar member", offset)
    start = window.position
    window.position += padded
    return window.view[start : start + size]


def _read_extension(overrides: _HeaderOverrides, type_flag: bytes, content: bytes, offset: int) -> None:
    if type_flag == _LONG_NAME:
        overrides.member["path"] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    elif type_flag == _PAX:
        overrides.member |= _pax_records(content, offset)
    elif type_flag == _PAX_GLOBAL:
        overrides.archive |= _pax_records(content, offset)


def _pax_records(content: bytes, offset: int) -> dict[str, str]:
    """Parse lines of the form `length key=value`, with the length of the whole line."""
    records = {}
    position = 0
    while position < len(content) and content[position]:
        digits, space, _ = content[position : position + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        line = content[position + len(digits) + 1 : position + length]
        key, equals, value = line.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise DamagedStream("has a damaged extended tar header", offset)
        name = key.decode("utf-8", "replace")
        if name in _PAX_KEYS or name.startswith("GNU.sparse"):
            records[name] = value[:-1].decode("utf-8", "surrogateescape")
        position += length
    if not records.get("size", "0").isdigit():
        raise DamagedStream("has a damaged extended tar header", offset)
    return records
