"""Where in a stream is a parser, and which bytes lie ahead of it without a copy?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Chunk = bytes | bytearray | memoryview

LONGEST_RECORD = 1 << 28
"""Bytes of one record, however it is written. A longer one is taken for damage: joining and decoding it would need
several times as much memory."""


class DamagedStream(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The stream cannot be cut into records any further; the message says why, in words that follow the place.

    Attributes:
        offset: of the byte, counted from the stream's beginning, at which the record that failed begins.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


class Window:
    """The bytes from a parser's place on: views into the chunks as they came.

    A copy is made only where a record spans two chunks that do not lie beside each other in the same memory.

    A parser works on `view` from `at` on, as far as it reaches, puts its place back into `at` before it gives anything
    away, and calls `reach` when there is too little. What it gave away stays valid: no chunk is used again.

    Attributes:
        view: bytes at hand.
        at: place in `view`.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._before = 0
        self.view = memoryview(b"")
        self.at = 0

    @property
    def offset(self) -> int:
        """The parser's place, counted from the stream's beginning."""
        return self._before + self.at

    def reach(self, count: int) -> bool:
        """Have at least `count` bytes from the place on in `view`; whether the stream has so many."""
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
        """Whether the stream ends exactly here."""
        return not self.reach(1)

    def take(self, count: int, what: str) -> memoryview:
        """Give `count` bytes away and move on.

        Raises:
            DamagedStream: the stream ends before.
        """
        if not self.reach(count):
            raise DamagedStream(f"ends in the middle of {what}", self.offset)
        start = self.at
        self.at += count
        return self.view[start : self.at]

    def _advance(self) -> bool:
        """Have bytes in `_rest`; whether there are any."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True

    def _follows(self) -> bool:
        """Whether the rest lies directly behind `view` in the same object."""
        return self._rest.obj is self.view.obj and _address(self._rest) == _address(self.view) + len(self.view)

    def _take_rest(self, left: int) -> None:
        """Make `view` of the rest, and of the bytes that are left before it."""
        self._before += self.at
        if left:
            whole = memoryview(self._rest.obj)
            start = _address(self._rest) - left - _address(whole)
            self.view = whole[start : start + left + len(self._rest)]
        else:
            self.view = self._rest
        self.at, self._rest = 0, memoryview(b"")

    def _join(self, count: int) -> bool:
        """Make `view` of what is left and of as much of the following chunks as `count` asks for."""
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
