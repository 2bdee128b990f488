"""Records of a channel whose objects are distributed over several hosts (`ShardedByS3Key`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from finetune.config.hyperparameters import TaskName
from finetune.data.record import Reader, Record
from finetune.errors import DataError


@dataclass(frozen=True, slots=True)
class RecordList:
    """The records of one host, without their contents.

    Attributes:
        keys: key of each record.
        labels: class names of each record.
        left_out: key and reason of each record that is excluded because it cannot be decoded.
    """

    keys: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    left_out: tuple[tuple[str, str], ...]


def list_records(reader: Reader) -> RecordList:
    """List the records of a reader."""
    indices = range(len(reader))
    keys, labels = tuple(map(reader.key, indices)), tuple(map(reader.labels, indices))
    return RecordList(keys, labels, reader.left_out)


class HostsReader:
    """The records of all hosts in the order of the hosts; contents can only be read on the host that has them."""

    def __init__(self, own: Reader, lists: Sequence[RecordList], host: int) -> None:
        """Initialize without reading any record.

        Args:
            own: reader of the records of this host.
            lists: the records of each host.
            host: index of this host.
        """
        self._own = own
        self._host = host
        self._lists = tuple(lists)
        self._starts = (0, *accumulate(len(records.keys) for records in lists))

    @property
    def host(self) -> int:
        """Index of this host."""
        return self._host

    @property
    def own(self) -> Reader:
        """Reader of the records of this host."""
        return self._own

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._own.channel

    @property
    def task(self) -> TaskName:
        """Task of the records."""
        return self._own.task

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Key and reason of each record that is excluded because it cannot be decoded, on all hosts."""
        return tuple(entry for records in self._lists for entry in records.left_out)

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return len(self._lists)

    def records_of(self, host: int) -> range:
        """Return the indices of the records of a host."""
        return range(self._starts[host], self._starts[host + 1])

    def __len__(self) -> int:
        """Number of records of all hosts."""
        return self._starts[-1]

    def key(self, index: int) -> str:
        """Return the key of record `index`."""
        records, row = self._locate(index)
        return records.keys[row]

    def labels(self, index: int) -> tuple[str, ...]:
        """Return the class names of record `index`."""
        records, row = self._locate(index)
        return records.labels[row]

    def clue(self, index: int) -> int:
        """Return the clue of a record of this host; 0 for others."""
        own = self.records_of(self._host)
        return self._own.clue(index - own.start) if index in own else 0

    def read(self, index: int) -> Record:
        """Return record `index` with its content.

        Raises:
            DataError: the record cannot be read, or it is on another host.
        """
        own = self.records_of(self._host)
        if index not in own:
            raise DataError(f"channel {self.channel!r}: {self.key(index)} is on another host")
        return self._own.read(index - own.start)

    def _locate(self, index: int) -> tuple[RecordList, int]:
        host = bisect_right(self._starts, index) - 1
        return self._lists[host], index - self._starts[host]


def readable_records(reader: Reader) -> range:
    """Return the indices of the records that can be read on this host."""
    return reader.records_of(reader.host) if isinstance(reader, HostsReader) else range(len(reader))
