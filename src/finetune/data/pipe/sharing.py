"""Shares a stream between processes of a host when only one process can read it.

Rank 0 reads, skips and shuffles, and sends the still encoded records of every global batch to the other processes, each
through its own FIFO; every process decodes its own share. The assignment of records depends only on their index in the
batch. Every process receives the identities of the whole batch and the end of the epoch, so all agree on both.

A FIFO stays open for the whole job, so that end of file means that the other process has ended. For the same reason, no
process may leave an epoch before its end and continue with the next one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import struct
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.data.formats.codec import Codec
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.pipe.batch_shares import BatchShare, ReadBatches
from finetune.data.pipe.fifo import Pipe, PipeOptions, WaitTimer, enlarge_pipe
from finetune.data.pipe.source import RecordSource, StreamRecord
from finetune.errors import JobStopped, PlatformError

_LENGTH = struct.Struct("<I")
_MAX_BUFFERS = 512
_POLL_SECONDS = 0.05
_STOP_SECONDS = 5.0
"""Maximum time between the stop requests of two processes of a host."""


@dataclass(frozen=True, slots=True)
class LocalProcessGroup:
    """Meeting point of the processes of a host.

    Attributes:
        folder: folder of this run on a local disk, known to all processes; initially empty.
        ranks: number of processes on this host. Rank 0 reads the stream.
        timeout: timeout in seconds for the other processes to connect.
    """

    folder: Path
    ranks: int
    timeout: float = 600.0

    def share(self, count: int, rank: int) -> slice:
        """Return the slice of a batch for a process; the shares differ by at most one record."""
        return slice(count * rank // self.ranks, count * (rank + 1) // self.ranks)

    def options_for(self, source: RecordSource, rank: int) -> PipeOptions:
        """Return the location of a process's FIFO.

        Reading it has no timeout once it is open: only end of file means that the reader is gone.
        """
        folder = self.folder / str(rank)
        return PipeOptions(
            source.channel, folder, folder / "state", self.timeout, source.stopped, read_timeout=math.inf
        )


def lost_process_error(source: RecordSource, message: str) -> PlatformError:
    """Return the error for another process that has ended, unless the job is stopping.

    If the other process was stopped, this one is stopped shortly after, so wait for that first.

    Raises:
        JobStopped: this process was stopped, too.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while not source.stopped():
        if time.monotonic() > deadline:
            return PlatformError(message)
        time.sleep(_POLL_SECONDS)
    raise JobStopped


class SharedStreamSender:
    """A `StreamSharing` for the process that reads the stream."""

    def __init__(self, processes: LocalProcessGroup) -> None:
        """Initialize without connecting to other processes."""
        self._processes = processes
        self._is_connected = False
        self._peers: dict[int, int] = {}

    def shares(self, source: RecordSource, read: ReadBatches) -> Generator[BatchShare, None, None]:
        """Yield the share of this process in each batch, after the others have been sent theirs.

        Raises:
            PlatformError: another process did not connect in time, or has ended.
            JobStopped: the job was stopped.
        """
        processes, has_sent_head, ended = self._processes, False, False
        try:
            if not self._is_connected:
                self._connect(source)
            if len(self._peers) < processes.ranks - 1:
                raise PlatformError(f"channel {source.channel!r}: the connection to the other processes is closed.")
            with closing(read()) as batches:
                for records in batches:
                    if not has_sent_head:
                        self._send_all(source, {"head": len(source.head)}, [source.head])
                        has_sent_head = True
                    identities = [record.identity for record in records]
                    shares = {rank: records[processes.share(len(records), rank)] for rank in range(processes.ranks)}
                    frames = {self._peers[rank]: self._encode_share(identities, shares[rank]) for rank in self._peers}
                    self._send(source, frames)
                    yield BatchShare(shares[0], identities)
            self._send_all(source, {"end": True, "others": source.other_records}, [])
            ended = True
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Close the FIFOs; the other processes notice it."""
        for descriptor in self._peers.values():
            os.close(descriptor)
        self._peers.clear()

    def _connect(self, source: RecordSource) -> None:
        self._is_connected = True
        pipe_options = {rank: self._processes.options_for(source, rank) for rank in range(1, self._processes.ranks)}
        for options in pipe_options.values():
            options.folder.mkdir(parents=True, exist_ok=True)
            os.mkfifo(options.folder / f"{options.channel}_0", 0o600)
        for rank, options in pipe_options.items():
            self._peers[rank] = _open(options, rank)
        self._send_all(source, {}, [])

    def _encode_share(self, identities: list[int], records: list[StreamRecord]) -> list[bytes]:
        fields = [[record.number, record.identity, *map(len, record.parts)] for record in records]
        contents = [part for record in records for part in record.parts]
        return _frame({"identities": identities, "records": fields}, contents)

    def _send_all(self, source: RecordSource, header: Mapping[str, Any], contents: Sequence[bytes]) -> None:
        frame = _frame(header, contents)
        self._send(source, {descriptor: list(frame) for descriptor in self._peers.values()})

    def _send(self, source: RecordSource, frames: Mapping[int, list[bytes]]) -> None:
        """Write all frames, to whichever process is ready, without a timeout."""
        poll = select.poll()
        remaining: dict[int, list[bytes | memoryview]] = {}
        for descriptor, frame in frames.items():
            poll.register(descriptor, select.POLLOUT)
            remaining[descriptor] = [*reversed(frame)]
        while remaining:
            for descriptor, _ in poll.poll(_POLL_SECONDS * 1000):
                self._write(source, descriptor, remaining[descriptor])
                if not remaining[descriptor]:
                    poll.unregister(descriptor)
                    del remaining[descriptor]
            if source.stopped():
                raise JobStopped

    def _write(self, source: RecordSource, descriptor: int, remaining: list[bytes | memoryview]) -> None:
        """Write as much as possible without blocking; `remaining` holds the remaining parts in reverse order."""
        try:
            written = os.writev(descriptor, list(islice(reversed(remaining), _MAX_BUFFERS)))
        except BlockingIOError:
            return
        except BrokenPipeError as error:
            rank = next(rank for rank, peer in self._peers.items() if peer == descriptor)
            raise lost_process_error(
                source, f"process {rank} on this host, which receives records, has exited; see its log."
            ) from error
        while remaining and written >= len(remaining[-1]):
            written -= len(remaining.pop())
        if written:
            remaining[-1] = memoryview(remaining[-1])[written:]


class SharedStreamReceiver:
    """A `StreamSharing` for a process that receives its share from rank 0."""

    def __init__(self, processes: LocalProcessGroup, rank: int) -> None:
        """Initialize without opening the FIFO."""
        self._processes = processes
        self._rank = rank
        self._chunks: Generator[memoryview, None, None] | None = None
        self._window = Window(())

    def shares(self, source: RecordSource, read: ReadBatches) -> Generator[BatchShare, None, None]:
        """Yield the shares as they arrive; does not call `read`.

        Raises:
            PlatformError: the reading process did not connect in time, or has ended.
            JobStopped: the job was stopped.
        """
        del read
        if self._chunks is None:
            self._chunks = Pipe(self._processes.options_for(source, self._rank)).read_next()
            self._window = Window(self._chunks)
        ended = False
        try:
            yield from self._shares(source, self._window)
            ended = True
        except DamagedStream as error:
            raise lost_process_error(
                source,
                f"channel {source.channel!r}: the process on this host that reads the channel has exited; see its log.",
            ) from error
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Close the FIFO; the reading process notices it."""
        if self._chunks is not None:
            self._chunks.close()

    def _shares(self, source: RecordSource, window: Window) -> Iterator[BatchShare]:
        codec: Codec | None = None
        while True:
            (length,) = _LENGTH.unpack(window.take(_LENGTH.size, "a share"))
            header = json.loads(bytes(window.take(length, "a share")))
            if "head" in header:
                codec = source.codec_for(bytes(window.take(header["head"], "a share")))
            elif "records" in header and codec is not None:
                records = [_record(fields, window, codec) for fields in header["records"]]
                yield BatchShare(records, header["identities"])
            elif "end" in header:
                source.other_records = header["others"]
                return


def _frame(header: Mapping[str, Any], contents: Sequence[bytes]) -> list[bytes]:
    head = json.dumps(header).encode()
    return [_LENGTH.pack(len(head)), head, *(content for content in contents if content)]


def _record(fields: Sequence[int], window: Window, codec: Codec) -> StreamRecord:
    number, identity, *lengths = fields
    parts = tuple(bytes(window.take(length, "a share")) for length in lengths)
    return StreamRecord(number, parts, identity, codec)


def _open(options: PipeOptions, rank: int) -> int:
    wait = WaitTimer(options, f"process {rank} on this host to open its FIFO")
    while True:
        try:
            descriptor = os.open(options.folder / f"{options.channel}_0", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            wait.check()
            time.sleep(_POLL_SECONDS)
            continue
        enlarge_pipe(descriptor)
        return descriptor
