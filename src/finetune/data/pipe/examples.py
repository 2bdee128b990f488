"""What becomes of a record of a stream before its batch is used: an example, or why it is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune.data.bad_records import BadContent
from finetune.data.class_names import nearest_name
from finetune.data.labels import LabelMap
from finetune.data.pipe.groups import Group
from finetune.data.pipe.source import StreamRecord
from finetune.data.record import Content
from finetune.errors import DataError

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Example(Generic[_Made]):
    """A record that was understood.

    Attributes:
        number: in its epoch, from 0.
        made: of it, by whoever asked for it.
        content: of the record.
        labels: names of its classes.
    """

    number: int
    made: _Made
    content: Content
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that was not."""

    record: StreamRecord
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared(Generic[_Made]):
    """A batch that is ready and not used yet."""

    group: Group
    examples: list[Example[_Made] | Bad]

    @property
    def good(self) -> list[Example[_Made]]:
        """Those that were understood."""
        return [one for one in self.examples if isinstance(one, Example)]


def understood(
    record: StreamRecord,
    key: str,
    channel: str,
    label_map: LabelMap,
    make: Callable[[StreamRecord, Content], _Made],
) -> Example[_Made] | Bad:
    """Decode a record, and make something of it.

    Args:
        record: as it came.
        key: what it is called.
        channel: where it came.
        label_map: knows the classes.
        make: of the record and its content.

    Raises:
        DataError: a label names no class.
    """
    try:
        decoded = record.decode()
        made = make(record, decoded.content)
    except BadContent as error:
        return Bad(record, str(error))
    except json.JSONDecodeError as error:
        return Bad(record, f"is not JSON ({error.msg} at column {error.colno})")
    except UnicodeDecodeError as error:
        return Bad(record, f"is not UTF-8 ({error.reason} at byte {error.start})")
    except ValueError as error:
        return Bad(record, str(error))
    return Example(record.number, made, decoded.content, _classes(decoded.labels, key, channel, label_map))


def _classes(labels: tuple[str, ...], key: str, channel: str, label_map: LabelMap) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        DataError: a label names none.
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
