"""Decodes the records of a stream into examples, or into bad records with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune.data.bad_records import BadRecordError
from finetune.data.class_names import nearest_name
from finetune.data.labels import LabelMap
from finetune.data.pipe.groups import Group
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.errors import DataError

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Example(Generic[_Made]):
    """A record that was decoded successfully.

    Attributes:
        number: number of the record in its epoch, from 0.
        made: result of the caller's `make` function.
        content: content of the record.
        labels: class names.
    """

    number: int
    made: _Made
    content: Content
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be decoded, with the reason."""

    record: StreamRecord
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared(Generic[_Made]):
    """A batch that is prepared but not used yet."""

    group: Group
    examples: list[Example[_Made] | Bad]

    @property
    def good(self) -> list[Example[_Made]]:
        """Examples that were decoded successfully."""
        return [one for one in self.examples if isinstance(one, Example)]


def understood(
    record: StreamRecord,
    key: str,
    channel: str,
    label_map: LabelMap,
    make: Callable[[StreamRecord, Content], _Made],
) -> Example[_Made] | Bad:
    """Decode a record and build an example from it.

    Args:
        record: encoded record.
        key: name of the record for messages.
        channel: name of the channel.
        label_map: map of the known classes.
        make: builds an object from the record and its content.

    Raises:
        DataError: a label does not name a known class.
    """
    try:
        decoded = record.decode()
        made = make(record, decoded.content)
    except BadRecordError as error:
        return Bad(record, str(error))
    except json.JSONDecodeError as error:
        return Bad(record, f"is not JSON ({error.msg} at column {error.colno})")
    except UnicodeDecodeError as error:
        return Bad(record, f"is not UTF-8 ({error.reason} at byte {error.start})")
    except ValueError as error:
        return Bad(record, str(error))
    return Example(record.number, made, decoded.content, _classes(decoded.labels, key, channel, label_map))


def _classes(labels: tuple[str, ...], key: str, channel: str, label_map: LabelMap) -> tuple[str, ...]:
    """Return the class names of the labels.

    Raises:
        DataError: a label does not name a known class.
    """
    known = []
    for label in labels:
        name = label_map.named(label)
        if name is None:
            raise DataError(
                f"channel {channel!r}: {key} has the class {label!r}, which nobody announced"
                f"{nearest_name(label, label_map.names)}; name every class in class_names or in the"
                " file of a channel 'labels', or announce none to have a first pass look for them"
            )
        known.append(name)
    return tuple(known)
