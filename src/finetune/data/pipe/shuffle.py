"""In which order are the records of a stream used, where do its batches end, and what is left after a restart?"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import torch

from finetune.data.loading.order import batch_bounds
from finetune.data.pipe.source import StreamRecord

_log = logging.getLogger(__name__)

MOST_BUFFERED = 256 << 20
"""Bytes of encoded records that the shuffle buffer holds, however many records it may hold."""

MOST_IDENTITIES = 4_000_000
"""Records of one epoch whose identities are kept, 8 bytes each; beyond it, only how many were used."""

_FIRST_ROOM = 128
"""Records in the shuffle buffer when the first one is drawn."""

_DRAWS = 4096


def shuffled(records: Iterable[StreamRecord], size: int, seed: int, epoch: int) -> Iterator[StreamRecord]:
    """Give the records in an order that is a function of their own order, size, seed and epoch.

    Records are drawn from a buffer, which begins small, so that the first batch need not wait for a slow source to fill
    it: two records come for each that is drawn, until the buffer has its size. With a size of 1 the order is kept.
    """
    draws = _draws(seed, epoch)
    buffer: list[StreamRecord] = []
    held, room = 0, min(size, _FIRST_ROOM)
    for record in records:
        buffer.append(record)
        held += record.size
        while len(buffer) > room or (held > MOST_BUFFERED and len(buffer) > 1):
            drawn = _pop(buffer, next(draws)) if size > 1 else buffer.pop(0)
            held, room = held - drawn.size, min(size, room + 1)
            yield drawn
    while buffer:
        yield _pop(buffer, next(draws))


def grouped(records: Iterable[StreamRecord], size: int) -> Iterator[list[StreamRecord]]:
    """Cut into batches as `batch_bounds` does, which takes reading a batch ahead; also what is left of an epoch."""
    waiting: list[StreamRecord] = []
    for record in records:
        waiting.append(record)
        if len(waiting) > 2 * size or len(waiting) == size == 1:
            yield waiting[:size]
            waiting = waiting[size:]
    for start, stop in batch_bounds(len(waiting), size):
        yield waiting[start:stop]


class StreamPosition:
    """How much of an epoch's stream was used: what a restarted job needs, since pipes begin anew.

    Attributes:
        epoch: of the training.
        used: records.
        ended: whether the epoch has no more.
    """

    def __init__(self) -> None:
        """Stand before the first epoch."""
        self.epoch = 0
        self.used = 0
        self.ended = False
        self._hash = 0
        self._identities = np.empty(0, np.int64)

    def begin(self, epoch: int) -> None:
        """Stand before the first record of an epoch."""
        self.epoch, self.used, self.ended, self._hash = epoch, 0, False, 0

    def use(self, identities: Iterable[int]) -> None:
        """Count records as used, in their order."""
        for identity in identities:
            if self.used < MOST_IDENTITIES:
                if self.used == len(self._identities):
                    self._identities = np.resize(self._identities, max(1024, 2 * self.used))
                self._identities[self.used] = identity
            self._hash = _rolled(self._hash, identity)
            self.used += 1

    def times_used(self, identity: int) -> int:
        """How many of the records that were used in this epoch have this identity, as far as these are kept."""
        return int(np.count_nonzero(self._identities[: min(self.used, MOST_IDENTITIES)] == identity))

    def unused(self, records: Iterable[StreamRecord], channel: str) -> Generator[StreamRecord, None, None]:
        """Pass over the records that were used; verify that they are those, in their order.

        Where the order is another one, each record that was used is passed over wherever it comes.
        """
        left = Counter(self._identities[: min(self.used, MOST_IDENTITIES)].tolist())
        only_counted = self.used > MOST_IDENTITIES
        passed = rolled = 0
        told = False
        for record in records:
            known = left[record.identity] > 0
            if passed < self.used and (known or only_counted):
                left[record.identity] -= 1
                passed += 1
                rolled = _rolled(rolled, record.identity)
                if passed == self.used and rolled == self._hash:
                    _log.info("channel %r: passed over %d records that were used before", channel, passed)
                continue
            if passed < self.used and not told:
                told = True
                _log.warning(
                    "channel %r: the records come in another order than before the interruption; each is used once in"
                    " this epoch as far as it can be told, but the result is not the same bits",
                    channel,
                )
            yield record
        if passed < self.used:
            _log.warning("channel %r: %d records used before did not come again", channel, self.used - passed)

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and a tensor int64 `[used]`."""
        kept = self._identities[: min(self.used, MOST_IDENTITIES)]
        return {
            "epoch": self.epoch,
            "used": self.used,
            "ended": self.ended,
            "hash": self._hash,
            # An empty array becomes a tensor whose stride is 0, which cannot be written.
            "identities": torch.from_numpy(kept) if len(kept) else torch.empty(0, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: it is not of this form.
        """
        epoch, used, rolled, kept = (state[name] for name in ("epoch", "used", "hash", "identities"))
        if any(type(one) is not int or one < 0 for one in (epoch, used, rolled)) or rolled >> 32:
            raise ValueError(f"a stream's position is epoch {epoch!r:.40}, record {used!r:.40}")
        if (
            not isinstance(kept, torch.Tensor)
            or kept.dtype != torch.int64
            or kept.shape != (min(used, MOST_IDENTITIES),)
        ):
            raise ValueError(f"not every one of {used} records of the stream is told")
        self.epoch, self.used, self.ended, self._hash = epoch, used, bool(state["ended"]), rolled
        self._identities = kept.numpy().copy()


def _draws(seed: int, epoch: int) -> Iterator[int]:
    """Raw output of PCG64, which NumPy promises to stay the same (NEP 19)."""
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, 1)))
    while True:
        yield from generator.random_raw(_DRAWS).tolist()


def _pop(buffer: list[StreamRecord], draw: int) -> StreamRecord:
    at = draw % len(buffer)
    buffer[at], buffer[-1] = buffer[-1], buffer[at]
    return buffer.pop()


def _rolled(before: int, identity: int) -> int:
    rolled: int = google_crc32c.extend(before, identity.to_bytes(8, "little"))
    return rolled
