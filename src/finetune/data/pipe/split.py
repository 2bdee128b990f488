"""Which records of a training stream are held out for validation, where there is no channel for it?

A function of seed and content alone, so they are the same ones in every epoch and at every start, in whichever order
the stream comes, and equal contents stay together. Nothing is kept: training passes over what is held out, and each
validation reads one more pipe of the channel and passes over the rest.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from finetune.config.hyperparameters import Task
from finetune.data.formats.codec import Codec
from finetune.data.loading.order import record_seed
from finetune.data.pipe.source import RecordSource, StreamRecord, identity_of
from finetune.errors import DataError

_ALL = 1 << 64
_UNLIKELY = 1e-3


@dataclass(frozen=True, slots=True)
class StreamSplit:
    """Which records are held out.

    Attributes:
        fraction: of the different contents, as many as chance makes it.
        seed: any integer.
    """

    fraction: float
    seed: int

    def holds_out(self, record: StreamRecord) -> bool:
        """Whether a record is for validation; one that cannot be understood is not, and training tells of it."""
        try:
            content = record.decode().content
        except ValueError:
            return False
        parts = (content,) if isinstance(content, bytes) else tuple(text.encode() for text in content)
        return record_seed(self.seed, 0, f"held out:{identity_of(parts)}") < self.fraction * _ALL

    def remaining(self, count: int) -> int:
        """About how many of so many records are left for training."""
        return max(1, count - round(count * self.fraction))

    def may_miss_a_side(self, count: int) -> bool:
        """Whether so many records are so few that chance could leave one side without any."""
        return max(self.fraction, 1 - self.fraction) ** count > _UNLIKELY

    def check_sides(self, channel: str, training: int, held_out: int) -> None:
        """Make sure that both sides have records.

        Raises:
            DataError: one of them has none.
        """
        if training and held_out:
            return
        purpose = "training" if held_out else "validation"
        raise DataError(
            f"channel {channel!r}: none of its {training + held_out} records falls to {purpose} with"
            f" validation_fraction={self.fraction}; change it, or give a channel 'validation'"
        )


class StreamShare:
    """One side of a split stream; a `RecordSource`.

    Attributes:
        channel: its name.
        task: what its records hold.
        stop: set by whoever reads, to end a wait for data.
        others: records of the other side in the epoch that was read last.
    """

    def __init__(self, source: RecordSource, split: StreamSplit, *, held_out: bool) -> None:
        """Open nothing yet.

        Args:
            source: of both sides.
            split: divides them.
            held_out: whether this is the side of validation.
        """
        self.channel = source.channel
        self.task: Task = source.task
        self.stop: Event = source.stop
        self.others = 0
        self._source = source
        self._split = split
        self._held_out = held_out

    @property
    def head(self) -> bytes:
        """The first bytes of the epoch."""
        return self._source.head

    def stopped(self) -> bool:
        """Whether any wait is to end."""
        return self._source.stopped()

    def codec_of(self, head: bytes) -> Codec:
        """The codec of a stream that another process reads, by its `head`."""
        return self._source.codec_of(head)

    def read_next(self) -> Generator[StreamRecord, None, None]:
        """Give the records of this side in the next pipe.

        Raises:
            DataError: the stream is damaged or empty, or this side is.
            JobStopped: the job was asked to stop, or `stop` was set.
        """
        self.others = found = 0
        with closing(self._source.read_next()) as records:
            for record in records:
                if self._split.holds_out(record) == self._held_out:
                    found += 1
                    yield record
                else:
                    self.others += 1
        if self.others and not found:
            training, held_out = (0, self.others) if not self._held_out else (self.others, 0)
            self._split.check_sides(self.channel, training, held_out)
