"""Which records could not be used, why, and how many of them are too many?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from finetune.errors import DataError

_log = logging.getLogger(__name__)

_LONGEST_REASON = 300
_TOLD = 20
"""Records that are logged one by one; then the 100th, the 1,000th and so on. `bad_records.json` lists all."""


class BadContent(ValueError):  # noqa: N818 - an adjective would not say whose fault it is
    """The content of a record cannot be decoded; the message says why, in words that follow the record's name."""


class BadRecords:
    """Records of one channel that are left out, each counted once however often it is met. Thread-safe."""

    def __init__(self, channel: str, limit: int) -> None:
        """Start with none.

        Args:
            channel: name of the channel, for messages.
            limit: how many records may be left out; the hyperparameter `max_bad_records`.
        """
        self._channel = channel
        self._limit = limit
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of different records noted so far."""
        return len(self._reasons)

    def note(self, key: str, reason: str) -> None:
        """Note that a record is left out.

        Args:
            key: identity of the record in its channel.
            reason: why, as it reads after the record's name (`is no image`).

        Raises:
            DataError: with this record there are more than `limit`.
        """
        reason = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
        with self._lock:
            if key in self._reasons:
                return
            self._reasons[key] = reason
            count = len(self._reasons)
        if count > self._limit:
            raise DataError(too_many(self._channel, (key, reason), count, self._limit))
        if count <= _TOLD or str(count).strip("0") == "1":
            _log.warning(
                "channel %r: %s %s; left out (%d of at most %d)", self._channel, key, reason, count, self._limit
            )

    def listing(self) -> tuple[tuple[str, str], ...]:
        """(key, reason) of every record that was left out, sorted by key."""
        with self._lock:
            return tuple(sorted(self._reasons.items()))

    def state_dict(self) -> dict[str, str]:
        """Reasons by key: what an interruption must not lose, as JSON values."""
        return dict(self.listing())

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Go on from what `state_dict` returned; the limit is the present one.

        Raises:
            ValueError: it is not of this form.
        """
        if not all(isinstance(text, str) for item in state.items() for text in item):
            raise ValueError(f"bad records of channel {self._channel!r} are not told by key and reason")
        with self._lock:
            self._reasons = dict(state)


def too_many(channel: str, bad: tuple[str, str], count: int, limit: int) -> str:
    """Say that a record is one too many.

    Args:
        channel: name of the channel.
        bad: key of the record, and why it cannot be used.
        count: bad records so far, this one included.
        limit: `max_bad_records`.
    """
    key, reason = bad
    return (
        f"channel {channel!r}: {key} {reason} ({allowance(count, limit)}); "
        "repair or remove the file, or raise max_bad_records to leave such records out"
    )


def allowance(count: int, limit: int) -> str:
    """Say which number a bad record has, and how many are allowed."""
    return "max_bad_records=0 allows none" if limit == 0 else f"it is number {count}, max_bad_records={limit}"
