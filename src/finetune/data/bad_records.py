"""Tracks bad records of a channel with their reasons, and enforces the limit on their number."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from finetune.errors import DataError

_log = logging.getLogger(__name__)

_MAX_REASON_LENGTH = 300
_MAX_LOGGED = 20
"""Number of records logged one by one; after that, the 100th, the 1,000th etc. `bad_records.json` lists all."""


class BadRecordError(ValueError):
    """The content of a record cannot be decoded; the message gives the reason, worded to follow the record's key."""


class BadRecords:
    """Skipped records of one channel, each counted once even if encountered repeatedly. Thread-safe."""

    def __init__(self, channel: str, limit: int) -> None:
        """Initialize without records.

        Args:
            channel: name of the channel, for messages.
            limit: maximum number of skipped records; the hyperparameter `max_bad_records`.
        """
        self._channel = channel
        self._limit = limit
        self._reasons: dict[str, str] = {}
        self._unshared: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of distinct bad records so far."""
        return len(self._reasons)

    def note(self, key: str, reason: str) -> None:
        """Note that a record is skipped.

        Args:
            key: key of the record in its channel.
            reason: reason, worded to follow the record's key (`is no image`).

        Raises:
            DataError: this record exceeds the `limit`.
        """
        reason = reason if len(reason) <= _MAX_REASON_LENGTH else reason[: _MAX_REASON_LENGTH - 1] + "…"
        with self._lock:
            if key in self._reasons:
                return
            self._reasons[key] = self._unshared[key] = reason
            count = len(self._reasons)
        if count > self._limit:
            raise DataError(too_many_message(self._channel, (key, reason), count, self._limit))
        if count <= _MAX_LOGGED or str(count).strip("0") == "1":
            _log.warning(
                "channel %r: %s %s; skipped (%d of at most %d)", self._channel, key, reason, count, self._limit
            )

    @property
    def unshared(self) -> int:
        """Number of records noted since `take_unshared`."""
        return len(self._unshared)

    def take_unshared(self) -> dict[str, str]:
        """Return the reasons of the records noted since the last call, for the other processes of the job."""
        with self._lock:
            unshared, self._unshared = self._unshared, {}
        return unshared

    def note_shared(self, reasons: Mapping[str, str]) -> None:
        """Note records that all processes of the job know.

        Raises:
            DataError: more records are skipped than the `limit`.
        """
        with self._lock:
            self._reasons.update(reasons)
            count = len(self._reasons)
        if reasons and count > self._limit:
            raise DataError(too_many_message(self._channel, list(reasons.items())[-1], count, self._limit))

    def listing(self) -> tuple[tuple[str, str], ...]:
        """Return (key, reason) of every skipped record, sorted by key."""
        with self._lock:
            return tuple(sorted(self._reasons.items()))

    def state_dict(self) -> dict[str, str]:
        """Return the reasons by key, as JSON values, for checkpoints."""
        return dict(self.listing())

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Restore the state returned by `state_dict`; the limit is unchanged.

        Raises:
            ValueError: the state has an invalid format.
        """
        if not all(isinstance(text, str) for item in state.items() for text in item):
            raise ValueError(f"bad records of channel {self._channel!r} do not map keys to reasons")
        with self._lock:
            self._reasons, self._unshared = dict(state), {}


def too_many_message(channel: str, bad: tuple[str, str], count: int, limit: int) -> str:
    """Return the message for a record that exceeds the limit.

    Args:
        channel: name of the channel.
        bad: key of the record and the reason why it is bad.
        count: number of bad records so far, including this one.
        limit: `max_bad_records`.
    """
    key, reason = bad
    return (
        f"channel {channel!r}: {key} {reason} ({allowance(count, limit)}); "
        "repair or remove the file, or raise max_bad_records to skip such records"
    )


def allowance(count: int, limit: int) -> str:
    """Return the number of a bad record and the allowed number, for messages."""
    return "max_bad_records=0 allows none" if limit == 0 else f"bad record number {count}, max_bad_records={limit}"
