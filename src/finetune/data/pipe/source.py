"""Which records come through the pipe of a channel in one epoch, still encoded?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

import google_crc32c

from finetune.config.hyperparameters import Task
from finetune.data.formats.codec import Codec, Sample, StreamLayout, choose_codec
from finetune.data.formats.named_fields import Decoded, Wanted
from finetune.data.framing.gzip_members import inflated
from finetune.data.framing.window import Chunk, DamagedStream, Window
from finetune.data.pipe.fifo import Pipe, PipePlace
from finetune.errors import DataError, JobStopped

_log = logging.getLogger(__name__)

_LONGEST_HEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """A record as it came.

    Attributes:
        number: in its epoch, from 0.
        parts: of the sample, copied out of the stream, whose chunks would otherwise stay in memory with it.
        identity: checksum and length of the parts, 63 bits: the same wherever in an epoch the record comes.
        codec: that understands it.
    """

    number: int
    parts: tuple[bytes, ...]
    identity: int
    codec: Codec

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.parts))

    def decode(self) -> Decoded:
        """Understand it.

        Raises:
            ValueError: it does not hold what it should.
        """
        return self.codec.decode(tuple(map(memoryview, self.parts)))


class RecordSource(Protocol):
    """The records of a channel, or of a share of it, epoch by epoch.

    Attributes:
        channel: its name.
        task: what its records hold.
        stop: set by whoever reads, to end a wait for data.
        others: records of the epoch that was read last which belong to another share.
        head: the first bytes of that epoch, from which `codec_of` makes a codec in another process.
    """

    channel: str
    task: Task
    stop: Event
    others: int

    @property
    def head(self) -> bytes: ...  # noqa: D102 - an attribute

    def stopped(self) -> bool:
        """Whether any wait is to end."""
        ...

    def codec_of(self, head: bytes) -> Codec:
        """The codec of a stream that another process reads, by its `head`."""
        ...

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """The records of the next epoch."""
        ...


class StreamSource:
    """The records of one channel, epoch by epoch.

    Attributes:
        channel: its name.
        task: what its records hold.
        stop: set by whoever reads, to end a wait for data.
        others: 0, since there is no other share.
        head: the first bytes of the epoch that was begun last, as far as they tell how its records are understood.
    """

    others = 0

    def __init__(self, place: PipePlace, layout: StreamLayout, wanted: Wanted) -> None:
        """Open nothing yet."""
        self.channel = place.channel
        self.task: Task = wanted.task
        self.stop = Event()
        self.head = b""
        self._asked = place.stopped
        self._pipe = Pipe(replace(place, stopped=self.stopped))
        self._layout = replace(layout, warn=self._warn_once)
        self._wanted = wanted
        self._warned: set[str] = set()
        self._tables: Codec | None = None

    def stopped(self) -> bool:
        """Whether any wait is to end."""
        return self._asked() or self.stop.is_set()

    def _warn_once(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            _log.warning("%s", warning)

    def codec_of(self, head: bytes) -> Codec:
        """The codec of a stream that another process reads, by its `head`."""
        window = Window([head])
        codec = choose_codec(self._layout, self._wanted, window)
        with suppress(DamagedStream):
            for _ in codec.cut(window):
                pass
        return codec

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Give the records of the next epoch; closing the generator closes the pipe.

        Raises:
            DataError: the stream is damaged; names channel, epoch, record and byte. Or it is empty, and not since
                hosts share the objects and there are fewer of these.
            JobStopped: the job was asked to stop, or `stop` was set.
        """
        epoch, number = self._pipe.index, 0
        with closing(self._pipe.read_next()) as chunks:
            tap = _Tap(inflated(chunks), self.stopped)
            window = Window(tap)
            try:
                # The columns of the first epoch hold: shuffled objects may begin with a row that tells less.
                codec = self._tables or choose_codec(self._layout, self._wanted, window)
                if self._tables is not None:
                    tap.close()
                for sample in codec.cut(window):
                    if self.stopped():  # a chunk may hold a million records
                        raise JobStopped
                    record = _record(number, sample, codec)
                    if not tap.closed and (window.offset > _LONGEST_HEAD or _is_understood(record)):
                        self.head = tap.close()[: window.offset]
                        self._tables = codec if self.task == "text-classification" else None
                    yield record
                    number += 1
            except DamagedStream as error:
                raise DataError(
                    f"channel {self.channel!r}, epoch {epoch}: the stream {error}, in record {number} (from 0), which"
                    f" begins at byte {error.offset:,}; see whether its objects are whole and of the content type given"
                ) from error
        if not number and not self._layout.shared:
            raise DataError(
                f"channel {self.channel!r}, epoch {epoch}: the pipe is empty; see whether the S3 prefix holds objects"
            )
        if not number:
            _log.warning("channel %r, epoch %d: none of the objects fell to this host", self.channel, epoch)


class _Tap:
    """Chunks, of which the first ones are kept until it is closed."""

    def __init__(self, chunks: Iterable[Chunk], stopped: Callable[[], bool]) -> None:
        self._chunks = chunks
        self._stopped = stopped
        self._kept: list[Chunk] = []
        self.closed = False

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            if self._stopped():  # what is compressed may become a thousand times as much
                raise JobStopped
            if not self.closed:
                self._kept.append(chunk)
            yield chunk

    def close(self) -> bytes:
        """What was kept."""
        self.closed, kept, self._kept = True, self._kept, []
        return b"".join(kept)


def _is_understood(record: StreamRecord) -> bool:
    try:
        record.decode()
    except ValueError:
        return False
    return True


def _record(number: int, sample: Sample, codec: Codec) -> StreamRecord:
    parts = tuple(map(bytes, sample))
    return StreamRecord(number, parts, identity_of(parts), codec)


def identity_of(parts: Iterable[bytes]) -> int:
    """Checksum and length of the parts of a record, in 63 bits."""
    checksum, length = 0, 0
    for part in parts:
        checksum = google_crc32c.extend(checksum, part)
        length += len(part)
    return checksum << 31 | length & 0x7FFFFFFF
