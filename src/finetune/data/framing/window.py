"""A position in a chunked byte stream, with zero-copy access to the bytes ahead."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Chunk = bytes | bytearray | memoryview

LONGEST_RECORD = 1 << 28
"""Maximum size of a record in bytes, in any format. A longer record is considered damaged: joining and decoding it
would need several times as much memory."""


class DamagedStream(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The rest of the stream cannot be split into records; the message gives the reason, to follow the location.

    Attributes:
        offset: stream offset of the record that failed, in bytes.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


class Window:
    """The bytes from the parser's position onward, as views into the original chunks.

    Bytes are copied only if a record spans two chunks that are not adjacent in memory.

    A parser reads `view` from `at` to its end, updates `at` before it yields a result, and calls `reach` when it needs
    more bytes. Yielded views stay valid, since chunks are never reused.

    Attributes:
        view: available bytes.
        at: position in `view`.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._before = 0
        self.view = memoryview(b"")
        self.at = 0

    @property
    def offset(self) -> int:
        """Position of the parser in bytes from the start of the stream."""
        return self._before + self.at

    def reach(self, count: int) -> bool:
        """Make at least `count` bytes available in `view` from `at` on; return whether the stream has that many."""
        left = len(self.view) - self.at
        if left >= count:
            return True
        while self._advance() and (left == 0 or self._follows()):
            self._take_rest(left)
            left = len(self.view) - self.at
            if left >= count:
                return True
        return self._join(count)

    def ended(self) -> bool:
        """Return whether the stream ends at this position."""
        return not self.reach(1)

    def take(self, count: int, what: str) -> memoryview:
        """Return the next `count` bytes and advance.

        Raises:
            DamagedStream: if the stream ends first.
        """
        if not self.reach(count):
            raise DamagedStream(f"ends in the middle of {what}", self.offset)
        start = self.at
        self.at += count
        return self.view[start : self.at]

    def _advance(self) -> bool:
        """Fill `_rest` with the next bytes; return whether there are any."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True

    def _follows(self) -> bool:
        """Return whether `_rest` directly follows `view` in the same object."""
        return self._rest.obj is self.view.obj and _address(self._rest) == _address(self.view) + len(self.view)

    def _take_rest(self, left: int) -> None:
        """Set `view` to the last `left` bytes of `view` followed by `_rest`."""
        self._before += self.at
        if left:
            whole = memoryview(self._rest.obj)
            start = _address(self._rest) - left - _address(whole)
            self.view = whole[start : start + left + len(self._rest)]
        else:
            self.view = self._rest
        self.at, self._rest = 0, memoryview(b"")

    def _join(self, count: int) -> bool:
        """Set `view` to a copy of the remaining bytes and as much of the next chunks as `count` requires."""
        pieces = [self.view[self.at :]]
        missing = count - len(pieces[0])
        while missing > 0 and self._advance():
            pieces.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(pieces[-1])
        self._before += self.at
        self.view, self.at = memoryview(bytearray().join(pieces)), 0
        return missing <= 0


def _address(view: memoryview) -> int:
    address: int = np.frombuffer(view, np.uint8).ctypes.data
    return address
