"""A position in a chunked byte stream, with zero-copy access to the bytes ahead."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Chunk = bytes | bytearray | memoryview

MAX_RECORD_BYTES = 1 << 28
"""Maximum size of a record in bytes, in any format. A longer record is considered damaged: joining and decoding it
would need several times as much memory."""


class DamagedStream(ValueError):  # noqa: N818 - the name says what is damaged
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

    A parser reads `view` from `position` to its end, updates `position` before it yields a result, and calls `reach`
    when it needs more bytes. Yielded views stay valid, since chunks are never reused.

    Attributes:
        view: available bytes.
        position: position in `view`.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = iter(chunks)
        self._pending = memoryview(b"")
        self._consumed = 0
        self.view = memoryview(b"")
        self.position = 0

    @property
    def offset(self) -> int:
        """Position of the parser in bytes from the start of the stream."""
        return self._consumed + self.position

    def reach(self, count: int) -> bool:
        """Make at least `count` bytes available from `position` on; return whether the stream has that many."""
        available = len(self.view) - self.position
        if available >= count:
            return True
        while self._load_chunk() and (available == 0 or self._is_adjacent()):
            self._append_pending(available)
            available = len(self.view) - self.position
            if available >= count:
                return True
        return self._join(count)

    def at_end(self) -> bool:
        """Return whether the stream ends at this position."""
        return not self.reach(1)

    def take(self, count: int, item: str) -> memoryview:
        """Return the next `count` bytes and advance.

        Raises:
            DamagedStream: if the stream ends first.
        """
        if not self.reach(count):
            raise DamagedStream(f"ends in the middle of {item}", self.offset)
        start = self.position
        self.position += count
        return self.view[start : self.position]

    def _load_chunk(self) -> bool:
        """Fill `_pending` with the next bytes; return whether there are any."""
        while not self._pending:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._pending = memoryview(chunk)
        return True

    def _is_adjacent(self) -> bool:
        """Return whether `_pending` directly follows `view` in the same object."""
        return self._pending.obj is self.view.obj and _address(self._pending) == _address(self.view) + len(self.view)

    def _append_pending(self, available: int) -> None:
        """Set `view` to the last `available` bytes of `view` followed by `_pending`."""
        self._consumed += self.position
        if available:
            whole = memoryview(self._pending.obj)
            start = _address(self._pending) - available - _address(whole)
            self.view = whole[start : start + available + len(self._pending)]
        else:
            self.view = self._pending
        self.position, self._pending = 0, memoryview(b"")

    def _join(self, count: int) -> bool:
        """Set `view` to a copy of the remaining bytes and as much of the next chunks as `count` requires."""
        pieces = [self.view[self.position :]]
        missing = count - len(pieces[0])
        while missing > 0 and self._load_chunk():
            pieces.append(self._pending[:missing])
            self._pending = self._pending[missing:]
            missing -= len(pieces[-1])
        self._consumed += self.position
        self.view, self.position = memoryview(bytearray().join(pieces)), 0
        return missing <= 0


def _address(view: memoryview) -> int:
    address: int = np.frombuffer(view, np.uint8).ctypes.data
    return address
