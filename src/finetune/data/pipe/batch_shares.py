"""Per-process shares of global batches, and reading them ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from finetune.data.loading.shares import Share
from finetune.data.pipe.source import RecordSource, StreamRecord

_MAX_QUEUED = 2
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The share of one process in a global batch.

    Attributes:
        records: records of this process; all records if it is the only one.
        identities: identities of all records in order, so that every process knows how much of the stream was used;
            none if this is not the last share of this process in the batch.
    """

    records: list[StreamRecord]
    identities: list[int]


ReadBatches = Callable[[], Generator[list[StreamRecord], None, None]]
"""Reads the global batches of an epoch from the channel."""


class StreamSharing(Protocol):
    """How the processes of a host get their shares of a stream."""

    def shares(self, source: RecordSource, read: ReadBatches, share: Share) -> Generator[BatchShare, None, None]:
        """Yield the share of this process in every global batch of the next epoch.

        Raises:
            PlatformError: another process has ended.
            JobStopped: the job was stopped.
        """
        ...


class SingleProcess:
    """A `StreamSharing` for a single process, which gets all records."""

    def shares(self, source: RecordSource, read: ReadBatches, share: Share) -> Generator[BatchShare, None, None]:
        """Yield every batch, or all shards of every batch."""
        del source
        with closing(read()) as batches:
            for records in batches:
                *others, last = share.select([records])
                for shard in others:
                    yield BatchShare(list(shard), [])
                yield BatchShare(list(last), [record.identity for record in records])


class ReadAhead:
    """Reads shares in a background thread, a few ahead of the consumer."""

    def __init__(self, shares: Callable[[], Generator[BatchShare, None, None]], stop: threading.Event) -> None:
        """Start the thread; setting `stop` interrupts its waits."""
        self._shares = shares
        self._stop = stop
        self._ready: queue.Queue[BatchShare | BaseException | None] = queue.Queue(_MAX_QUEUED)
        self._thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[BatchShare]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread, which closes its source, and wait for it."""
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            with closing(self._shares()) as shares:
                for share in shares:
                    if not self._put(share):
                        return
        except BaseException as error:  # noqa: BLE001 - re-raised in order in the consumer's thread
            end = error
        self._put(end)

    def _put(self, item: BatchShare | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
