"""Which records come through the pipe of a channel in one epoch, still encoded?"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

import google_crc32c

from finetune.data.pipe import Pipe, PipePlace
from finetune.data.streams.codec import Codec, Sample, StreamLayout, choose_codec
from finetune.data.streams.gzip_members import inflated
from finetune.data.streams.named_fields import Decoded, Wanted
from finetune.data.streams.window import DamagedStream, Window
from finetune.errors import DataError
from finetune.spec.job_spec import Task

_log = logging.getLogger(__name__)


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
    """

    channel: str
    task: Task
    stop: Event
    others: int

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
    """

    others = 0

    def __init__(self, place: PipePlace, layout: StreamLayout, wanted: Wanted) -> None:
        """Open nothing yet."""
        self.channel = place.channel
        self.task: Task = wanted.task
        self.stop = Event()
        asked = place.stopped
        self._pipe = Pipe(replace(place, stopped=lambda: asked() or self.stop.is_set()))
        self._layout = layout
        self._wanted = wanted

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Give the records of the next epoch; closing the generator closes the pipe.

        Raises:
            DataError: the stream is damaged; names channel, epoch, record and byte. Or it is empty, and not since
                hosts share the objects and there are fewer of these.
            Stopped: the job was asked to stop, or `stop` was set.
        """
        epoch, number = self._pipe.index, 0
        with closing(self._pipe.read_next()) as chunks:
            window = Window(inflated(chunks))
            try:
                codec = choose_codec(self._layout, self._wanted, window)
                for sample in codec.cut(window):
                    yield _record(number, sample, codec)
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
