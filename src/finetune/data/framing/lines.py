r"""Cuts a stream into lines.

A line ends at `\n`, or at `\r` where the stream begins with lines that end so (as on old Macs): other characters that
Unicode calls line ends stand inside of texts.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.framing.window import DamagedStream, Window

LONGEST_LINE = 1 << 26
"""Bytes. A longer line or row is taken for a quotation mark that is never closed, or for no text at all."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_LOOKED_AT = 1 << 16
"""Bytes among which an end of a line has to be."""


def line_end(window: Window) -> bytes:
    r"""What ends the lines of a stream, by its first bytes: `\n`, or `\r` where these hold it and no `\n`."""
    window.reach(_LOOKED_AT)
    first = bytes(window.view[window.at : window.at + _LOOKED_AT])
    return b"\r" if b"\r" in first and b"\n" not in first else b"\n"


def read_lines(window: Window, end: bytes = b"\n") -> Iterator[memoryview]:
    """Give the lines without their ends; the last one need not have any.

    Args:
        window: of the stream.
        end: one byte that ends a line.

    Raises:
        DamagedStream: a line is longer than `LONGEST_LINE`.
    """
    tail = bytearray()
    while window.reach(1):
        # One search for each line over the bytes at hand, which lie in one object.
        content = bytes(window.view[window.at :])
        view, start = memoryview(content), 0
        first = content.find(end)
        if tail and first >= 0:
            tail += content[:first]
            start = first + 1
            window.at += start
            yield memoryview(bytes(tail))
            tail.clear()
        base = window.at - start
        while (stop := content.find(end, start)) >= 0:
            window.at = base + stop + 1
            yield view[start:stop]
            start = stop + 1
        tail += content[start:]
        window.at = len(window.view)
        if len(tail) > LONGEST_LINE:
            raise DamagedStream(f"has a line of more than {LONGEST_LINE:,} bytes", window.offset - len(tail))
    if tail:
        yield memoryview(bytes(tail))
