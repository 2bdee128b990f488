"""Shuffles the records of a stream, groups them into batches, and tracks the position for resuming."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np
import torch

from finetune.data.loading.order import batch_bounds
from finetune.data.pipe.source import StreamRecord
from finetune.errors import DataError

_log = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 256 << 20
"""Maximum bytes of encoded records in the shuffle buffer, regardless of its size in records."""

MAX_IDENTITIES = 4_000_000
"""Maximum number of identities kept per epoch, 8 bytes each; beyond it, records are only counted."""

_INITIAL_BUFFER_RECORDS = 128
"""Records in the shuffle buffer when the first one is drawn."""

_DRAWS_PER_CALL = 4096


def shuffle_records(records: Iterable[StreamRecord], size: int, seed: int, epoch: int) -> Iterator[StreamRecord]:
    """Yield the records in an order that is a function of their input order, size, seed and epoch.

    Records are drawn from a shuffle buffer that starts small, so that the first batch does not wait for a slow source
    to fill it: two records are added for each one drawn, until the buffer has its full size. A size of 1 keeps the
    order.
    """
    random_integers = _random_integers(seed, epoch)
    buffer: list[StreamRecord] = []
    buffered_bytes, capacity = 0, min(size, _INITIAL_BUFFER_RECORDS)
    for record in records:
        buffer.append(record)
        buffered_bytes += record.size
        while len(buffer) > capacity or (buffered_bytes > MAX_BUFFERED_BYTES and len(buffer) > 1):
            drawn = _swap_pop(buffer, next(random_integers)) if size > 1 else buffer.pop(0)
            buffered_bytes, capacity = buffered_bytes - drawn.size, min(size, capacity + 1)
            yield drawn
    while buffer:
        yield _swap_pop(buffer, next(random_integers))


def batch_records(records: Iterable[StreamRecord], size: int) -> Iterator[list[StreamRecord]]:
    """Group records into batches as `batch_bounds` does, including the remainder; reads one batch ahead."""
    pending: list[StreamRecord] = []
    for record in records:
        pending.append(record)
        if len(pending) > 2 * size or len(pending) == size == 1:
            yield pending[:size]
            pending = pending[size:]
    for start, stop in batch_bounds(len(pending), size):
        yield pending[start:stop]


class StreamPosition:
    """Number of records used in an epoch, for resuming a job, since pipes restart from the beginning.

    Attributes:
        epoch: epoch number.
        used: number of records used.
        ended: whether the epoch has ended.
    """

    def __init__(self, channel: str = "train", host: int | None = None) -> None:
        """Start before the first epoch.

        Args:
            channel: name of the channel.
            host: index of this host, if the hosts have their own records.
        """
        self._channel = channel
        self._host = host
        self._hosts: list[tuple[int, int]] = []
        self._only_counted = False
        self.epoch = 0
        self.used = 0
        self.ended = False
        self._hash = 0
        self._identities = np.empty(0, np.int64)
        self._before_step = (0, 0)

    @property
    def mark(self) -> tuple[int, int]:
        """Number of records used, and a rolling checksum of their identities in order, 32 bits."""
        return self.used, self._hash

    def compare(self, marks: Sequence[tuple[int, int]]) -> None:
        """Compare the marks of all hosts if they read the same stream, else keep them for checkpoints.

        Raises:
            DataError: hosts that read the same stream have read different records, or another order.
        """
        if self._host is not None:
            self._hosts = list(marks)
        elif len(set(marks)) > 1:
            raise DataError(
                f"channel {self._channel!r}, epoch {self.epoch + 1}: the hosts received different records, or in"
                " another order, although the channel is replicated; remove its ShuffleConfig, and check that its"
                " objects do not change"
            )

    def begin_step(self) -> None:
        """Remember the position before the records of an optimizer step."""
        self._before_step = self.mark

    def undo_step(self) -> None:
        """Return to the position before the records of a step that is not done."""
        self.used, self._hash = self._before_step

    def begin(self, epoch: int) -> None:
        """Reset to the start of an epoch."""
        self.epoch, self.used, self.ended, self._hash = epoch, 0, False, 0
        self._before_step = (0, 0)
        self._hosts, self._only_counted = [], False

    def use(self, identities: Iterable[int]) -> None:
        """Count records as used, in order."""
        for identity in identities:
            if self.used < MAX_IDENTITIES:
                if self.used == len(self._identities):
                    self._identities = np.resize(self._identities, max(1024, 2 * self.used))
                self._identities[self.used] = identity
            self._hash = _extend_checksum(self._hash, identity)
            self.used += 1

    def times_used(self, identity: int) -> int:
        """Return how many records used in this epoch have this identity, among the identities kept."""
        return int(np.count_nonzero(self._identities[: min(self.used, MAX_IDENTITIES)] == identity))

    def skip_used(self, records: Iterable[StreamRecord], channel: str) -> Generator[StreamRecord, None, None]:
        """Skip the records that were used, and verify that they are the same records in the same order.

        If the order has changed, each used record is skipped where it occurs.
        """
        unskipped = Counter(self._identities[: min(self.used, MAX_IDENTITIES)].tolist())
        only_counted = self.used > MAX_IDENTITIES or self._only_counted
        skipped = checksum = 0
        has_warned = False
        for record in records:
            is_used = unskipped[record.identity] > 0
            if skipped < self.used and (is_used or only_counted):
                unskipped[record.identity] -= 1
                skipped += 1
                checksum = _extend_checksum(checksum, record.identity)
                if skipped == self.used and checksum == self._hash:
                    _log.info("channel %r: skipped %d records that were used before the interruption", channel, skipped)
                continue
            if skipped < self.used and not has_warned:
                has_warned = True
                _log.warning(
                    "channel %r: the record order differs from the order before the interruption; the used records are"
                    " skipped where they occur in this epoch, but the result is not bitwise reproducible",
                    channel,
                )
            yield record
        if skipped < self.used:
            _log.warning(
                "channel %r: %d records used before the interruption are missing from the stream",
                channel,
                self.used - skipped,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, and an int64 tensor `[used]`, or shorter if not all identities are kept."""
        identities = self._identities[: min(self.used, MAX_IDENTITIES)]
        state = {
            "epoch": self.epoch,
            "used": self.used,
            "ended": self.ended,
            "hash": self._hash,
            # An empty array becomes a tensor with stride 0, which cannot be saved.
            "identities": torch.from_numpy(identities) if len(identities) else torch.empty(0, dtype=torch.int64),
        }
        # Of other hosts with their own records, only the number is stored, and a checksum to check the order.
        return state if self._host is None else state | {"hosts": [list(mark) for mark in self._hosts]}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the state returned by `state_dict`.

        Raises:
            ValueError: the state has an invalid format.
        """
        epoch, used, checksum, identities = (state[name] for name in ("epoch", "used", "hash", "identities"))
        if any(type(number) is not int or number < 0 for number in (epoch, used, checksum)) or checksum >> 32:
            raise ValueError(f"invalid stream position: epoch {epoch!r:.40}, {used!r:.40} used records")
        if (
            not isinstance(identities, torch.Tensor)
            or identities.dtype != torch.int64
            or identities.shape != (min(used, MAX_IDENTITIES),)
        ):
            raise ValueError(f"invalid stream position: {used} used records, but not as many identities")
        self.epoch, self.used, self.ended, self._hash = epoch, used, bool(state["ended"]), checksum
        self._identities = identities.numpy().copy()
        if self._host is not None:
            self._load_host(state["hosts"])

    def _load_host(self, marks: object) -> None:
        """Restore the position of this host, if the state is that of the first host.

        Raises:
            ValueError: the state has an invalid format.
        """
        if not isinstance(marks, list) or not all(
            isinstance(mark, list) and len(mark) == 2 and all(type(number) is int for number in mark) for mark in marks
        ):
            raise ValueError("invalid stream positions of the hosts")
        self._hosts = [(used, checksum) for used, checksum in marks]
        if self._host:
            self.used, self._hash = self._hosts[self._host] if self._host < len(marks) else (0, 0)
            self._identities = np.zeros(min(self.used, MAX_IDENTITIES), np.int64)
            self._only_counted, self.ended = True, False


def _random_integers(seed: int, epoch: int) -> Iterator[int]:
    """Yield raw output of PCG64, which NumPy guarantees to be stable (NEP 19)."""
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, 1)))
    while True:
        yield from generator.random_raw(_DRAWS_PER_CALL).tolist()


def _swap_pop(buffer: list[StreamRecord], draw: int) -> StreamRecord:
    index = draw % len(buffer)
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()


def _extend_checksum(before: int, identity: int) -> int:
    checksum: int = google_crc32c.extend(before, identity.to_bytes(8, "little"))
    return checksum
