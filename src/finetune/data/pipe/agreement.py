"""Synchronizes the end of an epoch between processes of a host that read separate channels.

Their channels may hold different numbers of batches, but every step needs a batch from each process. So before each
batch, all processes exchange whether they have one, and the epoch ends for all as soon as one channel ends. The
remaining batches of the other channels are not used in that epoch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from finetune.data.pipe.fifo import Waiting
from finetune.data.pipe.groups import Group, Read
from finetune.data.pipe.sharing import Table, gone
from finetune.data.pipe.source import RecordSource
from finetune.errors import JobStopped, PlatformError

_log = logging.getLogger(__name__)

_SLICE_SECONDS = 0.05
_YES, _NO = b"\1", b"\0"


class OwnChannel:
    """A `Sharing` for processes that each read their own channel; a batch is one part of the global batch."""

    def __init__(self, table: Table, rank: int) -> None:
        """Initialize without connecting to other processes."""
        self._table = table
        self._rank = rank
        self._others: list[socket.socket] = []

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Yield the batches of this process as long as every process has one.

        Raises:
            PlatformError: another process did not connect in time, or has ended.
            JobStopped: the job was stopped.
        """
        if not self._others:
            self._others = list(self._meet(source))
        with closing(read()) as groups:
            for records in groups:
                if not self._all_have_one(source, mine=True):
                    _log.info("channel %r: another channel has ended, and this epoch with it", source.channel)
                    return
                yield Group(records, [record.identity for record in records])
            self._all_have_one(source, mine=False)

    def close(self) -> None:
        """Disconnect from the other processes, which notice it."""
        for other in self._others:
            other.close()

    def _all_have_one(self, source: RecordSource, *, mine: bool) -> bool:
        """Return whether all processes have a batch: rank 0 collects the answers and broadcasts the result."""
        if not self._rank:
            said = [self._hear(other, source) for other in self._others]
            answer = _YES if mine and all(one == _YES for one in said) else _NO
            for other in self._others:
                self._tell(other, answer, source)
            return answer == _YES
        self._tell(self._others[0], _YES if mine else _NO, source)
        return self._hear(self._others[0], source) == _YES

    def _tell(self, other: socket.socket, what: bytes, source: RecordSource) -> None:
        try:
            other.sendall(what)
        except OSError as error:
            raise self._gone(source) from error

    def _hear(self, other: socket.socket, source: RecordSource) -> bytes:
        poll = select.poll()
        poll.register(other, select.POLLIN)
        while not poll.poll(_SLICE_SECONDS * 1000):
            if source.stopped():
                raise JobStopped
        try:
            said = other.recv(1)
        except OSError as error:
            raise self._gone(source) from error
        if not said:
            raise self._gone(source)
        return said

    def _gone(self, source: RecordSource) -> PlatformError:
        return gone(source, f"channel {source.channel!r}: another process of this host has ended; its log says why.")

    def _meet(self, source: RecordSource) -> Iterator[socket.socket]:
        place = self._table.place(source, 0)
        waiting = Waiting(place, "the other processes of this host")
        with _short(self._table.folder) as path:
            if self._rank:
                yield _connected(path, waiting)
                return
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(self._table.ranks)
                listener.settimeout(_SLICE_SECONDS)
                for _ in range(1, self._table.ranks):
                    yield _accepted(listener, waiting)


def _connected(path: str, waiting: Waiting) -> socket.socket:
    while True:
        other = socket.socket(socket.AF_UNIX)
        try:
            other.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            other.close()
            waiting.look()
            time.sleep(_SLICE_SECONDS)
            continue
        return other


def _accepted(listener: socket.socket, waiting: Waiting) -> socket.socket:
    while True:
        try:
            other, _ = listener.accept()
        except TimeoutError:
            waiting.look()
            continue
        other.setblocking(True)
        return other


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a socket path within the length limit of Unix sockets, however long the path of `folder` is."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/end-of-epoch"
    finally:
        os.close(descriptor)
