"""What does one process see of a batch, and how is it read ahead of whoever decodes it?"""

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
    """A global batch as one process sees it.

    Attributes:
        records: its own share; all of them where it is alone.
        identities: of all records, in their order, so that every process knows how far the stream was used.
    """

    records: list[StreamRecord]
    identities: list[int]


Read = Callable[[], Generator[list[StreamRecord], None, None]]
"""Reads the global batches of an epoch from the channel."""


class Sharing(Protocol):
    """How the processes of a host come to their shares of a stream."""

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Give this process its share of every global batch of the next epoch.

        Raises:
            PlatformError: another process has ended.
            JobStopped: the job was asked to stop.
        """
        ...


class Alone:
    """One process, which takes all."""

    def groups(self, source: RecordSource, read: Read) -> Generator[Group, None, None]:
        """Give every batch whole."""
        del source
        with closing(read()) as groups:
            for records in groups:
                yield Group(records, [record.identity for record in records])


class ReadAhead:
    """Groups that a thread of its own reads, a few ahead of whoever takes them."""

    def __init__(self, groups: Callable[[], Generator[Group, None, None]], stop: threading.Event) -> None:
        """Start the thread; `stop` ends its waits."""
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
        """Have the thread close what it reads from, and wait for it."""
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            with closing(self._groups()) as groups:
                for group in groups:
                    if not self._put(group):
                        return
        except BaseException as error:  # noqa: BLE001 - it is the consumer's, who raises it where its turn has come
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
