"""Decodes the records of a stream into examples, or into bad records with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune.data.bad_records import BadRecordError
from finetune.data.class_names import suggest_name
from finetune.data.labels import LabelMap
from finetune.data.pipe.batch_shares import BatchShare
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.errors import DataError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Example(Generic[_Result]):
    """A record that was decoded successfully.

    Attributes:
        number: number of the record in its epoch, from 0.
        result: result of the caller's `build` function.
        content: content of the record.
        labels: class names.
    """

    number: int
    result: _Result
    content: Content
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadExample:
    """A record that could not be decoded, with the reason."""

    record: StreamRecord
    reason: str


@dataclass(frozen=True, slots=True)
class PreparedBatch(Generic[_Result]):
    """A batch that is prepared but not used yet.

    Attributes:
        share: share of this process.
        examples: examples of its records, list by list.
    """

    share: BatchShare
    examples: list[list[Example[_Result] | BadExample]]

    @property
    def good(self) -> list[list[Example[_Result]]]:
        """Examples that were decoded successfully, list by list."""
        return [[example for example in part if isinstance(example, Example)] for part in self.examples]

    def rows_of_good(self) -> list[int]:
        """Rows in the batch of all examples that were decoded successfully."""
        return [row for row, example in self._rows() if isinstance(example, Example)]

    def bad(self) -> Iterator[tuple[BadExample, int]]:
        """Yield the other examples, and how many records before each in the batch are equal to it."""
        identities = self.share.identities
        for row, example in self._rows():
            if isinstance(example, BadExample):
                yield example, identities[:row].count(example.record.identity)

    def _rows(self) -> Iterator[tuple[int, Example[_Result] | BadExample]]:
        for rows, examples in zip(self.share.rows, self.examples, strict=True):
            yield from zip(rows, examples, strict=True)


def decode_example(
    record: StreamRecord,
    key: str,
    channel: str,
    label_map: LabelMap,
    build: Callable[[StreamRecord, Content], _Result],
) -> Example[_Result] | BadExample:
    """Decode a record and build an example from it.

    Args:
        record: encoded record.
        key: name of the record for messages.
        channel: name of the channel.
        label_map: map of the known classes.
        build: builds an object from the record and its content.

    Raises:
        DataError: a label does not name a known class.
    """
    try:
        decoded = record.decode()
        result = build(record, decoded.content)
    except BadRecordError as error:
        return BadExample(record, str(error))
    except json.JSONDecodeError as error:
        return BadExample(record, f"is not JSON ({error.msg} at column {error.colno})")
    except UnicodeDecodeError as error:
        return BadExample(record, f"is not UTF-8 ({error.reason} at byte {error.start})")
    except ValueError as error:
        return BadExample(record, str(error))
    return Example(record.number, result, decoded.content, _class_names(decoded.labels, key, channel, label_map))


def _class_names(labels: tuple[str, ...], key: str, channel: str, label_map: LabelMap) -> tuple[str, ...]:
    """Return the class names of the labels.

    Raises:
        DataError: a label does not name a known class.
    """
    names = []
    for label in labels:
        name = label_map.resolve(label)
        if name is None:
            raise DataError(
                f"channel {channel!r}: {key} has the unknown class {label!r}"
                f"{suggest_name(label, label_map.names)}; list every class in class_names or in the"
                " file of a 'labels' channel, or list none to find the classes in a first pass"
            )
        names.append(name)
    return tuple(names)
