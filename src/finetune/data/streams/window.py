"""Where in a stream is a parser, and which bytes lie ahead of it without a copy?"""

from __future__ import annotations

from collections.abc import Iterable

Chunk = bytes | bytearray | memoryview

LONGEST_RECORD = 1 << 30
"""Bytes. A length beyond it is taken for damage rather than for memory that has to be found."""


class DamagedStream(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The stream cannot be cut into records any further; the message says why, in words that follow the place.

    Attributes:
        offset: of the byte, counted from the stream's beginning, at which the record that failed begins.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


class Window:
    """The bytes from a parser's place on: views into the chunks as they came, a copy only where a record spans two.

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
        if left == 0 and self._advance() and len(self._rest) >= count:
            self._take_rest()
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

    def _take_rest(self) -> None:
        self._before += len(self.view)
        self.view, self.at, self._rest = self._rest, 0, memoryview(b"")

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
