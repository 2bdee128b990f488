"""Reads the encoded records of a Pipe mode channel, epoch by epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

import google_crc32c

from finetune.config.hyperparameters import TaskName
from finetune.data.formats.codec import Codec, StreamLayout, choose_codec
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions, RawRecord
from finetune.data.framing.gzip_members import decompress_gzip
from finetune.data.framing.window import Chunk, DamagedStream, Window
from finetune.data.pipe.fifo import Pipe, PipeOptions
from finetune.errors import DataError, JobStopped

_log = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """An encoded record of a stream.

    Attributes:
        number: number of the record in its epoch, from 0.
        parts: parts of the sample, copied from the stream so that its chunks can be freed.
        identity: checksum and length of the parts, 63 bits: independent of the record's position in the epoch.
        codec: codec that decodes the record.
    """

    number: int
    parts: tuple[bytes, ...]
    identity: int
    codec: Codec

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(map(len, self.parts))

    def decode(self) -> DecodedRecord:
        """Decode the record.

        Raises:
            ValueError: the record has invalid content.
        """
        return self.codec.decode(tuple(map(memoryview, self.parts)))


class RecordSource(Protocol):
    """Interface of a source of the records of a channel, or of a share of them, epoch by epoch.

    Attributes:
        channel: channel name.
        task: task of the records.
        stop: event set by the consumer to interrupt a wait for data.
        other_records: number of records in the last epoch read that belong to another share.
        head: first bytes of that epoch, from which `codec_for` makes a codec in another process.
    """

    channel: str
    task: TaskName
    stop: Event
    other_records: int

    @property
    def head(self) -> bytes: ...  # noqa: D102 - an attribute

    def stopped(self) -> bool:
        """Return whether to stop waiting."""
        ...

    def codec_for(self, head: bytes) -> Codec:
        """Return the codec of a stream that another process reads, given its `head`."""
        ...

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Yield the records of the next epoch."""
        ...


class StreamSource:
    """The records of one channel, epoch by epoch.

    Attributes:
        channel: channel name.
        task: task of the records.
        stop: event set by the consumer to interrupt a wait for data.
        other_records: always 0, since there is no other share.
        head: first bytes of the current epoch, as many as are needed to choose the codec.
    """

    other_records = 0

    def __init__(self, pipe_options: PipeOptions, layout: StreamLayout, decode_options: DecodeOptions) -> None:
        """Initialize without opening the pipe."""
        self.channel = pipe_options.channel
        self.task: TaskName = decode_options.task
        self.stop = Event()
        self.head = b""
        self._stop_requested = pipe_options.stopped
        self._pipe = Pipe(replace(pipe_options, stopped=self.stopped))
        self._layout = replace(layout, warn=self._warn_once)
        self._decode_options = decode_options
        self._warned: set[str] = set()
        self._table_codec: Codec | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether the objects of the channel are distributed over several hosts."""
        return self._layout.shared

    def stopped(self) -> bool:
        """Return whether to stop waiting."""
        return self._stop_requested() or self.stop.is_set()

    def _warn_once(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            _log.warning("%s", warning)

    def codec_for(self, head: bytes) -> Codec:
        """Return the codec of a stream that another process reads, given its `head`."""
        window = Window([head])
        codec = choose_codec(self._layout, self._decode_options, window)
        with suppress(DamagedStream):
            for _ in codec.split_records(window):
                pass
        return codec

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Yield the records of the next epoch; closing the generator closes the pipe.

        Raises:
            DataError: the stream is damaged (with channel, epoch, record and byte), or it is empty although hosts do
                not
                share its objects; with shared objects, there may be fewer objects than hosts.
            JobStopped: the job was stopped, or `stop` was set.
        """
        epoch, number = self._pipe.index, 0
        with closing(self._pipe.read_next()) as chunks:
            tap = _Tap(decompress_gzip(chunks), self.stopped)
            window = Window(tap)
            try:
                # Keep the columns of the first epoch: shuffled objects may start with a less informative row.
                codec = self._table_codec or choose_codec(self._layout, self._decode_options, window)
                if self._table_codec is not None:
                    tap.close()
                for raw in codec.split_records(window):
                    if self.stopped():  # a chunk may hold a million records
                        raise JobStopped
                    record = _record(number, raw, codec)
                    if not tap.closed and (window.offset > _MAX_HEAD_BYTES or _is_decodable(record)):
                        self.head = tap.close()[: window.offset]
                        self._table_codec = codec if self.task == "text-classification" else None
                    yield record
                    number += 1
            except DamagedStream as error:
                raise DataError(
                    f"channel {self.channel!r}, epoch {epoch}: the stream {error}, in record {number} (from 0), which"
                    f" begins at byte {error.offset:,}; check that its objects are complete and match the content type"
                ) from error
        if not number and not self._layout.shared:
            raise DataError(
                f"channel {self.channel!r}, epoch {epoch}: the pipe is empty; check that the S3 prefix contains objects"
            )
        if not number:
            _log.warning("channel %r, epoch %d: this host received no objects", self.channel, epoch)


class _Tap:
    """Passes chunks through and keeps a copy of the first ones until it is closed."""

    def __init__(self, chunks: Iterable[Chunk], stopped: Callable[[], bool]) -> None:
        self._chunks = chunks
        self._stopped = stopped
        self._copied: list[Chunk] = []
        self.closed = False

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            if self._stopped():  # a compressed chunk may expand a thousandfold
                raise JobStopped
            if not self.closed:
                self._copied.append(chunk)
            yield chunk

    def close(self) -> bytes:
        """Stop keeping chunks and return the kept bytes."""
        self.closed, copied, self._copied = True, self._copied, []
        return b"".join(copied)


def _is_decodable(record: StreamRecord) -> bool:
    try:
        record.decode()
    except ValueError:
        return False
    return True


def _record(number: int, raw: RawRecord, codec: Codec) -> StreamRecord:
    parts = tuple(map(bytes, raw))
    return StreamRecord(number, parts, record_identity(parts), codec)


def record_identity(parts: Iterable[bytes]) -> int:
    """Return checksum and length of the parts of a record, in 63 bits."""
    checksum, length = 0, 0
    for part in parts:
        checksum = google_crc32c.extend(checksum, part)
        length += len(part)
    return checksum << 31 | length & 0x7FFFFFFF
