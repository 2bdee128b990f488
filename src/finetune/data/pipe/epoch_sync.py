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

from finetune.data.pipe.batch_shares import BatchShare, ReadBatches
from finetune.data.pipe.fifo import WaitTimer
from finetune.data.pipe.sharing import LocalProcessGroup, lost_process_error
from finetune.data.pipe.source import RecordSource
from finetune.errors import JobStopped, PlatformError

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_YES, _NO = b"\1", b"\0"


class ChannelPerProcess:
    """A `StreamSharing` for processes that each read their own channel; a batch is one part of the global batch."""

    def __init__(self, processes: LocalProcessGroup, rank: int) -> None:
        """Initialize without connecting to other processes."""
        self._processes = processes
        self._rank = rank
        self._peers: list[socket.socket] = []

    def shares(self, source: RecordSource, read: ReadBatches) -> Generator[BatchShare, None, None]:
        """Yield the batches of this process as long as every process has one.

        Raises:
            PlatformError: another process did not connect in time, or has ended.
            JobStopped: the job was stopped.
        """
        if not self._peers:
            self._peers = list(self._connect(source))
        with closing(read()) as batches:
            for records in batches:
                if not self._all_have_batch(source, has_batch=True):
                    _log.info(
                        "channel %r: the epoch ends early, because the channel of another process has ended",
                        source.channel,
                    )
                    return
                yield BatchShare(records, [record.identity for record in records])
            self._all_have_batch(source, has_batch=False)

    def close(self) -> None:
        """Disconnect from the other processes, which notice it."""
        for peer in self._peers:
            peer.close()

    def _all_have_batch(self, source: RecordSource, *, has_batch: bool) -> bool:
        """Return whether all processes have a batch: rank 0 collects the answers and broadcasts the result."""
        if not self._rank:
            answers = [self._receive(peer, source) for peer in self._peers]
            answer = _YES if has_batch and all(answer == _YES for answer in answers) else _NO
            for peer in self._peers:
                self._send(peer, answer, source)
            return answer == _YES
        self._send(self._peers[0], _YES if has_batch else _NO, source)
        return self._receive(self._peers[0], source) == _YES

    def _send(self, peer: socket.socket, message: bytes, source: RecordSource) -> None:
        try:
            peer.sendall(message)
        except OSError as error:
            raise self._lost_process(source) from error

    def _receive(self, peer: socket.socket, source: RecordSource) -> bytes:
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        while not poll.poll(_POLL_SECONDS * 1000):
            if source.stopped():
                raise JobStopped
        try:
            answer = peer.recv(1)
        except OSError as error:
            raise self._lost_process(source) from error
        if not answer:
            raise self._lost_process(source)
        return answer

    def _lost_process(self, source: RecordSource) -> PlatformError:
        return lost_process_error(
            source, f"channel {source.channel!r}: another process on this host has exited; see its log."
        )

    def _connect(self, source: RecordSource) -> Iterator[socket.socket]:
        options = self._processes.options_for(source, 0)
        wait = WaitTimer(options, "the other processes on this host to connect")
        with _socket_path(self._processes.folder) as path:
            if self._rank:
                yield _connect_to(path, wait)
                return
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(self._processes.ranks)
                listener.settimeout(_POLL_SECONDS)
                for _ in range(1, self._processes.ranks):
                    yield _accept(listener, wait)


def _connect_to(path: str, wait: WaitTimer) -> socket.socket:
    while True:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            peer.close()
            wait.check()
            time.sleep(_POLL_SECONDS)
            continue
        return peer


def _accept(listener: socket.socket, wait: WaitTimer) -> socket.socket:
    while True:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            wait.check()
            continue
        peer.setblocking(True)
        return peer


@contextlib.contextmanager
def _socket_path(folder: Path) -> Iterator[str]:
    """Yield a socket path within the length limit of Unix sockets, however long the path of `folder` is."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/end-of-epoch"
    finally:
        os.close(descriptor)
