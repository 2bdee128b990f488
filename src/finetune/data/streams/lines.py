r"""What are the lines of a stream, and the rows of a table whose quoted fields may hold line ends?

A line ends at `\n` and nowhere else: other characters that Unicode calls line ends stand inside of texts.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.streams.window import DamagedStream, Window

LONGEST_LINE = 1 << 28
"""Bytes. A longer line or row is taken for a quotation mark that is never closed, or for no text at all."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(window: Window) -> Iterator[memoryview]:
    r"""Give the lines without their `\n`; the last one need not have any.

    Raises:
        DamagedStream: a line is longer than `LONGEST_LINE`.
    """
    tail = bytearray()
    while window.reach(1):
        # One search for each line over the bytes at hand, which lie in one object.
        content = bytes(window.view[window.at :])
        view, start = memoryview(content), 0
        first = content.find(b"\n")
        if tail and first >= 0:
            tail += content[:first]
            start = first + 1
            window.at += start
            yield memoryview(bytes(tail))
            tail.clear()
        base = window.at - start
        while (stop := content.find(b"\n", start)) >= 0:
            window.at = base + stop + 1
            yield view[start:stop]
            start = stop + 1
        tail += content[start:]
        window.at = len(window.view)
        if len(tail) > LONGEST_LINE:
            raise DamagedStream(f"has a line of more than {LONGEST_LINE:,} bytes", window.offset - len(tail))
    if tail:
        yield memoryview(bytes(tail))


def read_rows(window: Window) -> Iterator[memoryview]:
    """Give the rows of CSV: a row goes on over line ends while a quotation mark is open. Blank lines are passed over.

    Raises:
        DamagedStream: a row is longer than `LONGEST_LINE`, or the stream ends inside a quoted field.
    """
    open_row = bytearray()
    begin = 0
    for line in read_lines(window):
        content = bytes(line)
        odd = content.count(b'"') % 2 == 1
        if not open_row:
            begin = window.offset - len(content) - 1
            if not odd:
                if content.strip():
                    yield line
                continue
            open_row += content
            continue
        open_row += b"\n"
        open_row += content
        if odd:
            yield memoryview(bytes(open_row))
            open_row.clear()
        elif len(open_row) > LONGEST_LINE:
            raise DamagedStream("has a quotation mark that is never closed", begin)
    if open_row:
        raise DamagedStream("ends inside a quoted field; a quotation mark is not closed or the stream is cut", begin)
