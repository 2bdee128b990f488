"""Shares a stream between the processes of a host, of which only one can read it.

The first process of the host reads, skips and shuffles, and sends the still encoded records of every batch to the other
processes, each through its own FIFO; every process decodes its own share. Every process receives the identities of the
whole batch and the end of the epoch, so all agree on both.

A FIFO stays open for the whole job, so end of file means that the other process has stopped or ended. Both count as a
stop request: the processes agree on it before their next step, and an exchange with a process that has ended fails. For
the same reason, no process may leave an epoch before its end and continue with the next one.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

from finetune.data.formats.codec import Codec
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.loading.shares import RowShare
from finetune.data.pipe.batch_shares import BatchShare, ReadBatches, share_of_batch
from finetune.data.pipe.fifo import PipeOptions, enlarge_pipe, read_chunks
from finetune.data.pipe.source import RecordSource, StreamRecord
from finetune.errors import JobStopped

_LENGTH = struct.Struct("<I")
_MAX_BUFFERS = 512
_POLL_SECONDS = 0.05


def make_fifos(folder: Path, processes: int) -> None:
    """Create the FIFOs of a stream for all processes of a host but the first.

    Args:
        folder: folder on a local disk; created if necessary.
        processes: number of processes of the host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for local_rank in range(1, processes):
        os.mkfifo(folder / str(local_rank), 0o600)


class SharedStreamSender:
    """A `StreamSharing` for the process that reads the stream."""

    def __init__(self, folder: Path, processes: int) -> None:
        """Open the FIFOs, which all other processes have already opened.

        Args:
            folder: folder of `make_fifos`.
            processes: number of processes of the host.
        """
        self._peers: dict[int, int] = {}
        for local_rank in range(1, processes):
            descriptor = os.open(folder / str(local_rank), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            enlarge_pipe(descriptor)
            self._peers[local_rank] = descriptor

    def shares(self, source: RecordSource, read: ReadBatches, share: RowShare) -> Generator[BatchShare, None, None]:
        """Yield the share of this process in each batch, after the others have been sent theirs.

        Raises:
            JobStopped: the job was stopped, or another process has ended.
        """
        # There may be more processes than virtual devices: those take no part.
        for rank in [rank for rank in self._peers if rank >= share.local_size]:
            os.close(self._peers.pop(rank))
        if len(self._peers) < share.local_size - 1:
            raise JobStopped
        has_sent_head = has_ended = False
        try:
            with _stop_when_closed(self._peers.values(), source.stop), closing(read()) as batches:
                for number, records in enumerate(batches):
                    if not has_sent_head:
                        self._send_all(source, {"head": len(source.head)}, [source.head])
                        has_sent_head = True
                    frames = {
                        descriptor: _encode_share(share_of_batch(number, records, share, rank))
                        for rank, descriptor in self._peers.items()
                    }
                    self._send(source, frames)
                    yield share_of_batch(number, records, share, share.local_rank)
                self._send_all(source, {"end": True, "others": source.other_records}, [])
            has_ended = True
        finally:
            if not has_ended:
                self.close()

    def close(self) -> None:
        """Close the FIFOs; the other processes notice it."""
        for descriptor in self._peers.values():
            os.close(descriptor)
        self._peers.clear()

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
                self._write(descriptor, remaining[descriptor])
                if not remaining[descriptor]:
                    poll.unregister(descriptor)
                    del remaining[descriptor]
            if source.stopped():
                raise JobStopped

    def _write(self, descriptor: int, remaining: list[bytes | memoryview]) -> None:
        """Write as much as possible without blocking; `remaining` holds the remaining parts in reverse order."""
        try:
            written = os.writev(descriptor, list(islice(reversed(remaining), _MAX_BUFFERS)))
        except BlockingIOError:
            return
        except BrokenPipeError as error:
            raise JobStopped from error
        while remaining and written >= len(remaining[-1]):
            written -= len(remaining.pop())
        if written:
            remaining[-1] = memoryview(remaining[-1])[written:]


class SharedStreamReceiver:
    """A `StreamSharing` for a process that receives its share from the process that reads the stream."""

    def __init__(self, folder: Path, local_rank: int) -> None:
        """Open the FIFO for this process.

        Args:
            folder: folder of `make_fifos`.
            local_rank: this process.
        """
        self._descriptor: int | None = os.open(folder / str(local_rank), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        enlarge_pipe(self._descriptor)
        self._window: Window | None = None

    def shares(self, source: RecordSource, read: ReadBatches, share: RowShare) -> Generator[BatchShare, None, None]:
        """Yield the shares as they arrive; does not call `read`.

        Raises:
            JobStopped: the job was stopped, or the reading process has ended.
        """
        del read
        if self._descriptor is None:
            raise JobStopped
        if self._window is None:
            # No timeout: the reading process notices if the stream does not come.
            options = PipeOptions(source.channel, Path(), Path(), math.inf, source.stopped)
            self._window = Window(read_chunks(self._descriptor, options, source.channel))
        has_ended = False
        try:
            yield from self._shares(source, self._window, share)
            has_ended = True
        except DamagedStream as error:
            raise JobStopped from error
        finally:
            if not has_ended:
                self.close()

    def close(self) -> None:
        """Close the FIFO; the reading process notices it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _shares(self, source: RecordSource, window: Window, share: RowShare) -> Iterator[BatchShare]:
        codec: Codec | None = None
        number = 0
        while True:
            (length,) = _LENGTH.unpack(window.take(_LENGTH.size, "a share"))
            header = json.loads(bytes(window.take(length, "a share")))
            if "head" in header:
                codec = source.codec_for(bytes(window.take(header["head"], "a share")))
            elif "records" in header and codec is not None:
                identities: list[int] = header["identities"]
                rows = share.rows(number, identities, share.local_rank)
                records = iter([_record(fields, window, codec) for fields in header["records"]])
                yield BatchShare(identities, rows, [list(islice(records, len(selected))) for selected in rows])
                number += 1
            elif "end" in header:
                source.other_records = header["others"]
                return


@contextmanager
def _stop_when_closed(descriptors: Iterable[int], stop: Event) -> Iterator[None]:
    """Set `stop` when any of the FIFOs is closed by its reader, which would otherwise be noticed at the next write."""
    wake, waker = os.pipe()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    for descriptor in descriptors:
        poll.register(descriptor, 0)

    def watch() -> None:
        if any(descriptor != wake for descriptor, _ in poll.poll()):
            stop.set()

    thread = Thread(target=watch, name="stream-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(waker)
        thread.join()
        os.close(wake)


def _encode_share(share: BatchShare) -> list[bytes]:
    records = [record for selected in share.records for record in selected]
    fields = [[record.number, record.identity, *map(len, record.parts)] for record in records]
    contents = [part for record in records for part in record.parts]
    return _frame({"identities": share.identities, "records": fields}, contents)


def _frame(header: Mapping[str, Any], contents: Sequence[bytes]) -> list[bytes]:
    head = json.dumps(header).encode()
    return [_LENGTH.pack(len(head)), head, *(content for content in contents if content)]


def _record(fields: Sequence[int], window: Window, codec: Codec) -> StreamRecord:
    number, identity, *lengths = fields
    parts = tuple(bytes(window.take(length, "a share")) for length in lengths)
    return StreamRecord(number, parts, identity, codec)
