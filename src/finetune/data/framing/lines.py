r"""Splits a stream into lines.

Lines end at `\n`, or at `\r` if the first lines of the stream do (classic Mac OS). Other Unicode line separators may
occur inside texts, so they do not end a line.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.framing.window import DamagedStream, Window

MAX_LINE_BYTES = 1 << 26
"""Maximum line length in bytes. A longer line or row indicates an unclosed quotation mark or binary data."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_PEEK_BYTES = 1 << 16
"""Number of leading bytes to search for a line end."""


def line_end(window: Window) -> bytes:
    r"""Infer the line end from the first bytes: `\r` if they contain `\r` and no `\n`, else `\n`."""
    window.reach(_PEEK_BYTES)
    prefix = bytes(window.view[window.position : window.position + _PEEK_BYTES])
    return b"\r" if b"\r" in prefix and b"\n" not in prefix else b"\n"


def read_lines(window: Window, end: bytes = b"\n") -> Iterator[memoryview]:
    """Yield the lines without their line ends; the last line may lack one.

    Args:
        window: the stream.
        end: line end, one byte.

    Raises:
        DamagedStream: if a line is longer than `MAX_LINE_BYTES`.
    """
    tail = bytearray()
    while window.reach(1):
        # One copy of the available bytes, so that each line needs only one search.
        content = bytes(window.view[window.position :])
        view, start = memoryview(content), 0
        line_stop = content.find(end)
        if tail and line_stop >= 0:
            tail += content[:line_stop]
            start = line_stop + 1
            window.position += start
            yield memoryview(bytes(tail))
            tail.clear()
        base = window.position - start
        while (stop := content.find(end, start)) >= 0:
            window.position = base + stop + 1
            yield view[start:stop]
            start = stop + 1
        tail += content[start:]
        window.position = len(window.view)
        if len(tail) > MAX_LINE_BYTES:
            raise DamagedStream(f"has a line longer than {MAX_LINE_BYTES:,} bytes", window.offset - len(tail))
    if tail:
        yield memoryview(bytes(tail))
