"""Per-process shares of global batches, and reading them ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from finetune.data.pipe.source import RecordSource, StreamRecord

_MOST_READ = 2
_SLICE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Group:
    """The share of one process in a global batch.

    Attributes:
        records: records of this process; all records if it is the only one.
        identities: identities of all records in order, so that every process knows how much of the stream was used.
    """

    records: list[StreamRecord]
    identities: list[int]


Read = Callable[[], Generator[list[StreamRecord], None, None]]
"""Reads the global batches of an epoch from the channel."""


class Sharing(Protocol):
    """How the processes of a host get their shares of a stream."""

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Yield the share of this process in every global batch of the next epoch.

        Raises:
            PlatformError: another process has ended.
            JobStopped: the job was stopped.
        """
        ...


class Alone:
    """A `Sharing` for a single process, which gets all records."""

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Yield every batch in full."""
        del source
        with closing(read()) as groups:
            for records in groups:
                yield Group(records, [record.identity for record in records])


class ReadAhead:
    """Reads groups in a background thread, a few ahead of the consumer."""

    def __init__(self, groups: Callable[[], Generator[Group, None, None]], stop: threading.Event) -> None:
        """Start the thread; setting `stop` interrupts its waits."""
        self._groups = groups
        self._stop = stop
        self._ready: queue.Queue[Group | BaseException | None] = queue.Queue(_MOST_READ)
        self._thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Group]:
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
            with closing(self._groups()) as groups:
                for group in groups:
                    if not self._put(group):
                        return
        except BaseException as error:  # noqa: BLE001 - re-raised in order in the consumer's thread
            end = error
        self._put(end)

    def _put(self, item: Group | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_SLICE_SECONDS)
            except queue.Full:
                continue
            return True
        return False
