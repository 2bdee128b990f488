"""Reads the lines of UTF-8 text files, optionally compressed with gzip."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from finetune.data.framing.lines import MAX_LINE_BYTES
from finetune.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 19
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def text_lines(channel: str, root: Path, key: str, newline: str = "\n") -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a file, including line ends, with their numbers from 1; a leading byte order mark is dropped.

    Args:
        channel: channel name, for messages.
        root: folder of the channel.
        key: path of the file relative to `root`.
        newline: as in `open`: `"\n"` splits at `"\n"` only, `""` also at `"\r"` and `"\r\n"`.

    Raises:
        DataError: if the file cannot be read, is not UTF-8, or is compressed and damaged.
    """
    try:
        with (
            _read_errors(channel, key),
            io.TextIOWrapper(open_decompressed(root / key), encoding="utf-8-sig", newline=newline) as file,
        ):
            lines = file if _is_short(root / key) else _bounded_lines(file, f"channel {channel!r}: {key}")
            yield from enumerate(lines, start=1)
    except UnicodeDecodeError as error:
        raise encoding_error(channel, root, key) from error


def file_chunks(channel: str, root: Path, key: str) -> Generator[bytes, None, None]:
    """Yield the bytes of a file in chunks, decompressed if necessary.

    Raises:
        DataError: if the file cannot be read, or is compressed and damaged.
    """
    with _read_errors(channel, key), open_decompressed(root / key) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, decompressed if it begins like gzip."""
    file = path.open("rb")
    if file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] != _GZIP_MAGIC:
        return file
    file.close()
    return cast(BinaryIO, gzip.open(path, "rb"))


def describe_utf8_error(key: str, error: UnicodeDecodeError, offset: int, line: int) -> str:
    """Return why bytes of a file are not UTF-8 and how to convert it; follows the name of a record.

    Args:
        key: the file.
        error: error from decoding a part of the file.
        offset: offset of this part in the file.
        line: line of the invalid byte, from 1.
    """
    return (
        f"is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + error.start}, line {line}; convert "
        f"it, for example with `iconv -f WINDOWS-1252 -t UTF-8 {key} > converted`"
    )


def encoding_error(channel: str, root: Path, key: str) -> DataError:
    """Return the error for a file that is not UTF-8, with the location of the first invalid byte."""
    return DataError(f"channel {channel!r}: {_locate_utf8_error(root, key)}")


@contextmanager
def _read_errors(channel: str, key: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"channel {channel!r}: {key} is damaged or truncated gzip: {error}") from error
    except OSError as error:
        raise DataError(f"channel {channel!r}: {key} cannot be read: {error.strerror}") from error


def _is_short(path: Path) -> bool:
    """Return whether the file is too small to contain a line that is too long."""
    with path.open("rb") as file:
        return path.stat().st_size <= MAX_LINE_BYTES and file.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC


def _bounded_lines(file: TextIO, where: str) -> Iterator[str]:
    """Yield the lines of a file.

    Raises:
        DataError: if a line is longer than `MAX_LINE_BYTES`.
    """
    number = 1
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{where}, line {number} has more than {MAX_LINE_BYTES:,} characters; split the file into lines"
            )
        yield line
        number += 1


def _locate_utf8_error(root: Path, key: str) -> str:
    """Locate the first invalid byte; the file is read again, since block-wise decoding does not give its position."""
    offset = 0
    with open_decompressed(root / key) as file:
        for line, content in enumerate(file, start=1):
            try:
                content.decode()
            except UnicodeDecodeError as error:
                encoding = "UTF-16" if line == 1 and content.startswith(_UTF16_MARKS) else "WINDOWS-1252"
                return (
                    f"{key} is not UTF-8: byte 0x{content[error.start]:02x} at offset {offset + error.start}, "
                    f"line {line}; convert it, for example with `iconv -f {encoding} -t UTF-8 {key} > converted`"
                )
            offset += len(content)
    return f"{key} is not UTF-8"
