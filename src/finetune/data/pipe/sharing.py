"""How do several processes of a host share a stream that only one of them may read?

The first one reads, passes over and shuffles, and deals the records of every global batch, still encoded, to the
others, each through a FIFO of its own; all decode their own shares. Who gets which record is a function of its place in
the batch. Each hears the identities of the whole batch and where the epoch ends, so all agree on both.

A FIFO lasts as long as the job, so that its end tells one process that the other has ended. For the same reason nobody
may leave an epoch before its end and go on with the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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
from finetune.data.pipe.fifo import PIPE_BYTES, Pipe, PipePlace, Waiting
from finetune.data.pipe.groups import Group, Read
from finetune.data.pipe.source import RecordSource, StreamRecord
from finetune.errors import JobStopped, PlatformError

_LENGTH = struct.Struct("<I")
_MOST_BUFFERS = 512
_SLICE_SECONDS = 0.05
_STOP_SECONDS = 5.0
"""Most time between two processes of a host that are both asked to stop."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where the processes of a host meet.

    Attributes:
        folder: of this run of the job, on a local disk, which all of them know; empty at first.
        ranks: processes on this host. The one with rank 0 reads.
        patience: seconds to wait for the others to come.
    """

    folder: Path
    ranks: int
    patience: float = 600.0

    def share(self, count: int, rank: int) -> slice:
        """Which records of a batch a process gets: as many as others, or one more."""
        return slice(count * rank // self.ranks, count * (rank + 1) // self.ranks)

    def place(self, source: RecordSource, rank: int) -> PipePlace:
        """Where a process finds its FIFO; once it is open, nothing but its end says that the reader is gone."""
        folder = self.folder / str(rank)
        return PipePlace(source.channel, folder, folder / "state", self.patience, source.stopped, silence=math.inf)


def gone(source: RecordSource, message: str) -> PlatformError:
    """The error that another process has ended, unless it was asked to stop, as this one then is in a moment.

    Raises:
        JobStopped: this process was asked to stop, too.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while not source.stopped():
        if time.monotonic() > deadline:
            return PlatformError(message)
        time.sleep(_SLICE_SECONDS)
    raise JobStopped


class Dealer:
    """The process that reads: a `Sharing`."""

    def __init__(self, table: Table) -> None:
        """Wait for nobody yet."""
        self._table = table
        self._met = False
        self._others: dict[int, int] = {}

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Give this process its share of each batch when the others have been sent theirs.

        Raises:
            PlatformError: another process has not come, or has ended.
            JobStopped: the job was asked to stop.
        """
        table, told, ended = self._table, False, False
        try:
            if not self._met:
                self._meet(source)
            if len(self._others) < table.ranks - 1:
                raise PlatformError(f"channel {source.channel!r}: the dealing of records to other processes has ended.")
            with closing(read()) as groups:
                for records in groups:
                    if not told:
                        self._send_all(source, {"head": len(source.head)}, [source.head])
                        told = True
                    identities = [record.identity for record in records]
                    shares = {rank: records[table.share(len(records), rank)] for rank in range(table.ranks)}
                    frames = {self._others[rank]: self._deal(identities, shares[rank]) for rank in self._others}
                    self._send(source, frames)
                    yield Group(shares[0], identities)
            self._send_all(source, {"end": True, "others": source.others}, [])
            ended = True
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Leave the table; the others notice."""
        for descriptor in self._others.values():
            os.close(descriptor)
        self._others.clear()

    def _meet(self, source: RecordSource) -> None:
        self._met = True
        places = {rank: self._table.place(source, rank) for rank in range(1, self._table.ranks)}
        for place in places.values():
            place.folder.mkdir(parents=True, exist_ok=True)
            os.mkfifo(place.folder / f"{place.channel}_0", 0o600)
        for rank, place in places.items():
            self._others[rank] = _open(place, rank)
        self._send_all(source, {}, [])

    def _deal(self, identities: list[int], records: list[StreamRecord]) -> list[bytes]:
        told = [[record.number, record.identity, *map(len, record.parts)] for record in records]
        contents = [part for record in records for part in record.parts]
        return _frame({"identities": identities, "records": told}, contents)

    def _send_all(self, source: RecordSource, told: Mapping[str, Any], contents: Sequence[bytes]) -> None:
        frame = _frame(told, contents)
        self._send(source, {descriptor: list(frame) for descriptor in self._others.values()})

    def _send(self, source: RecordSource, frames: Mapping[int, list[bytes]]) -> None:
        """Write to whoever takes something, until all have theirs, however long that is."""
        poll = select.poll()
        left: dict[int, list[bytes | memoryview]] = {}
        for descriptor, frame in frames.items():
            poll.register(descriptor, select.POLLOUT)
            left[descriptor] = [*reversed(frame)]
        while left:
            for descriptor, _ in poll.poll(_SLICE_SECONDS * 1000):
                self._write(source, descriptor, left[descriptor])
                if not left[descriptor]:
                    poll.unregister(descriptor)
                    del left[descriptor]
            if source.stopped():
                raise JobStopped

    def _write(self, source: RecordSource, descriptor: int, left: list[bytes | memoryview]) -> None:
        """Write as much as goes; `left` ends with what comes next."""
        try:
            written = os.writev(descriptor, list(islice(reversed(left), _MOST_BUFFERS)))
        except BlockingIOError:
            return
        except BrokenPipeError as error:
            rank = next(rank for rank, one in self._others.items() if one == descriptor)
            raise gone(source, f"process {rank} of this host, to which records are dealt, has ended.") from error
        while left and written >= len(left[-1]):
            written -= len(left.pop())
        if written:
            left[-1] = memoryview(left[-1])[written:]


class Receiver:
    """A process that is dealt its share: a `Sharing`."""

    def __init__(self, table: Table, rank: int) -> None:
        """Wait for nothing yet."""
        self._table = table
        self._rank = rank
        self._chunks: Generator[memoryview, None, None] | None = None
        self._window = Window(())

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Give the shares as they come; reads nothing itself.

        Raises:
            PlatformError: the process that reads has not come, or has ended.
            JobStopped: the job was asked to stop.
        """
        del read
        if self._chunks is None:
            self._chunks = Pipe(self._table.place(source, self._rank)).read_next()
            self._window = Window(self._chunks)
        ended = False
        try:
            yield from self._shares(source, self._window)
            ended = True
        except DamagedStream as error:
            raise gone(
                source,
                f"channel {source.channel!r}: the process of this host that reads it has ended; its log says why.",
            ) from error
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Leave the table; who reads notices."""
        if self._chunks is not None:
            self._chunks.close()

    def _shares(self, source: RecordSource, window: Window) -> Iterator[Group]:
        codec: Codec | None = None
        while True:
            (length,) = _LENGTH.unpack(window.take(_LENGTH.size, "a share"))
            told = json.loads(bytes(window.take(length, "a share")))
            if "head" in told:
                codec = source.codec_of(bytes(window.take(told["head"], "a share")))
            elif "records" in told and codec is not None:
                records = [_record(one, window, codec) for one in told["records"]]
                yield Group(records, told["identities"])
            elif "end" in told:
                source.others = told["others"]
                return


def _frame(told: Mapping[str, Any], contents: Sequence[bytes]) -> list[bytes]:
    head = json.dumps(told).encode()
    return [_LENGTH.pack(len(head)), head, *(content for content in contents if content)]


def _record(told: Sequence[int], window: Window, codec: Codec) -> StreamRecord:
    number, identity, *lengths = told
    parts = tuple(bytes(window.take(length, "a share")) for length in lengths)
    return StreamRecord(number, parts, identity, codec)


def _open(place: PipePlace, rank: int) -> int:
    waiting = Waiting(place, f"process {rank} of this host to read its share")
    while True:
        try:
            descriptor = os.open(place.folder / f"{place.channel}_0", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            waiting.look()
            time.sleep(_SLICE_SECONDS)
            continue
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return descriptor
