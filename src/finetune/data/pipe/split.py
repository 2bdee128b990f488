"""Holds out records of a training stream for validation if there is no validation channel.

The selection depends only on seed and content, so it is the same in every epoch and after every restart, regardless of
the stream's order, and equal contents stay together. No records are stored: training skips the held-out records, and
each validation reads another pipe of the channel and skips the others.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from finetune.config.hyperparameters import TaskName
from finetune.data.formats.codec import Codec
from finetune.data.loading.order import record_seed
from finetune.data.pipe.source import RecordSource, StreamRecord, record_identity
from finetune.errors import DataError

_HASH_RANGE = 1 << 64
_MAX_EMPTY_PROBABILITY = 1e-3


@dataclass(frozen=True, slots=True)
class StreamSplit:
    """Selects the held-out records of a stream.

    Attributes:
        fraction: expected fraction of the distinct contents to hold out.
        seed: any integer.
    """

    fraction: float
    seed: int

    def holds_out(self, record: StreamRecord) -> bool:
        """Return whether a record is held out; undecodable records are not, so that training reports them."""
        try:
            content = record.decode().content
        except ValueError:
            return False
        parts = (content,) if isinstance(content, bytes) else tuple(text.encode() for text in content)
        return record_seed(self.seed, 0, f"held out:{record_identity(parts)}") < self.fraction * _HASH_RANGE

    def remaining(self, count: int) -> int:
        """Estimate how many of `count` records remain for training."""
        return max(1, count - round(count * self.fraction))

    def may_have_empty_side(self, count: int) -> bool:
        """Return whether `count` records are so few that one side could be empty by chance."""
        return max(self.fraction, 1 - self.fraction) ** count > _MAX_EMPTY_PROBABILITY

    def check_sides(self, channel: str, training: int, held_out: int) -> None:
        """Check that both sides have records.

        Raises:
            DataError: one side has none.
        """
        if training and held_out:
            return
        purpose = "training" if held_out else "validation"
        raise DataError(
            f"channel {channel!r}: none of its {training + held_out} records is selected for {purpose} with"
            f" validation_fraction={self.fraction}; change the fraction, or provide a 'validation' channel"
        )


class StreamShare:
    """One side of a split stream; a `RecordSource`.

    Attributes:
        channel: channel name.
        task: task of the records.
        stop: event set by the consumer to interrupt a wait for data.
        other_records: number of records of the other side in the last epoch read.
    """

    def __init__(self, source: RecordSource, split: StreamSplit, *, held_out: bool, may_be_empty: bool = False) -> None:
        """Initialize without opening the pipe.

        Args:
            source: source of the records of both sides.
            split: selects the held-out records.
            held_out: whether this is the validation side.
            may_be_empty: whether this side may be empty, since other hosts have more records.
        """
        self.channel = source.channel
        self.task: TaskName = source.task
        self.stop: Event = source.stop
        self.other_records = 0
        self._source = source
        self._split = split
        self._held_out = held_out
        self._may_be_empty = may_be_empty

    @property
    def head(self) -> bytes:
        """First bytes of the epoch."""
        return self._source.head

    def stopped(self) -> bool:
        """Return whether to stop waiting."""
        return self._source.stopped()

    def codec_for(self, head: bytes) -> Codec:
        """Return the codec of a stream that another process reads, given its `head`."""
        return self._source.codec_for(head)

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Yield the records of this side in the next pipe.

        Raises:
            DataError: the stream is damaged or empty, or this side is empty.
            JobStopped: the job was stopped, or `stop` was set.
        """
        self.other_records = count = 0
        with closing(self._source.read_next()) as records:
            for record in records:
                if self._split.holds_out(record) == self._held_out:
                    count += 1
                    yield record
                else:
                    self.other_records += 1
        if self.other_records and not count and not self._may_be_empty:
            training, held_out = (0, self.other_records) if not self._held_out else (self.other_records, 0)
            self._split.check_sides(self.channel, training, held_out)
