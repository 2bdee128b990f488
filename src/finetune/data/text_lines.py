"""What are the lines of a text file, if it is in UTF-8?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune.errors import DataError

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def text_lines(channel: str, root: Path, key: str, newline: str = "\n") -> Iterator[tuple[int, str]]:
    r"""Give the lines of a file with their numbers, from 1, and their ends; a byte order mark at the start is dropped.

    Args:
        channel: for messages.
        root: the channel's folder.
        key: the file, relative to it.
        newline: as of `open`: `"\n"` ends lines there only, `""` at `"\r"` and `"\r\n"` too.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        with (root / key).open(encoding="utf-8-sig", newline=newline) as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as error:
        raise DataError(f"channel {channel!r}: {_where_not_utf8(root, key)}") from error
    except OSError as error:
        raise DataError(f"channel {channel!r}: {key} cannot be read: {error.strerror}") from error


def _where_not_utf8(root: Path, key: str) -> str:
    """Say where the first wrong byte is; decoding in blocks does not tell, so the file is read again."""
    offset = 0
    with (root / key).open("rb") as file:
        for line, content in enumerate(file, start=1):
            try:
                content.decode()
            except UnicodeDecodeError as error:
                encoding = "UTF-16" if line == 1 and content.startswith(_UTF16_MARKS) else "WINDOWS-1252"
                return (
                    f"{key} is not UTF-8: byte 0x{content[error.start]:02x} at offset {offset + error.start}, "
                    f"line {line}; convert it, for instance with `iconv -f {encoding} -t UTF-8 {key} > converted`"
                )
            offset += len(content)
    return f"{key} is not UTF-8"
