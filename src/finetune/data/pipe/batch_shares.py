"""Per-process shares of global batches, and reading them ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from finetune.data.loading.shares import RowShare
from finetune.data.pipe.source import RecordSource, StreamRecord

_QUEUED_PER_PROCESS = 2
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The share of one process in a global batch.

    Attributes:
        identities: identities of all records in order, so that every process knows how much of the stream was used.
        rows: rows of this process in the batch, one list for each batch that it makes of them.
        records: records of these rows.
    """

    identities: list[int]
    rows: list[Sequence[int]]
    records: list[list[StreamRecord]]


ReadBatches = Callable[[], Generator[list[StreamRecord], None, None]]
"""Reads the global batches of an epoch from the channel."""


class StreamSharing(Protocol):
    """How the processes of a host get their shares of a stream."""

    def shares(self, source: RecordSource, read: ReadBatches, share: RowShare) -> Generator[BatchShare, None, None]:
        """Yield the share of this process in every global batch of the next epoch.

        Raises:
            JobStopped: the job was stopped, or the process that reads the stream has ended.
            PlatformError: another process did not connect in time.
        """
        ...


class SingleProcess:
    """A `StreamSharing` for a host with a single process, which reads the stream itself."""

    def shares(self, source: RecordSource, read: ReadBatches, share: RowShare) -> Generator[BatchShare, None, None]:
        """Yield the share of this process in every batch."""
        del source
        with closing(read()) as batches:
            for number, records in enumerate(batches):
                yield share_of_batch(number, records, share, share.local_rank)


def share_of_batch(number: int, records: Sequence[StreamRecord], share: RowShare, local_rank: int) -> BatchShare:
    """Return the share of a process of this host in a batch.

    Args:
        number: number of the batch since the beginning of the iteration.
        records: records of the batch.
        share: selects the rows.
        local_rank: the process.
    """
    identities = [record.identity for record in records]
    rows = share.rows(number, identities, local_rank)
    return BatchShare(identities, rows, [[records[row] for row in selected] for selected in rows])


class ReadAhead:
    """Reads shares in a background thread, a few ahead of the consumer."""

    def __init__(
        self, shares: Callable[[], Generator[BatchShare, None, None]], stop: threading.Event, processes: int
    ) -> None:
        """Start the thread.

        Args:
            shares: reads the shares.
            stop: interrupts waits when it is set.
            processes: number of processes that share the batches; each of them needs batches ahead.
        """
        self._shares = shares
        self._stop = stop
        self._closed = threading.Event()
        self._ready: queue.Queue[BatchShare | BaseException | None] = queue.Queue(_QUEUED_PER_PROCESS * processes)
        self._thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[BatchShare]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread, which closes its source, and wait for it."""
        self._closed.set()
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
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
