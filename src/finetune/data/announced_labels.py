"""Reads label files, and maps the labels of records to the announced classes.

A label file has one name per line, or is JSON: a list of names, an object from names to numbers or from numbers to
names, or Ground Truth label categories (`{"labels": [{"label": "cat"}, ...]}`). The order, or the numbers, are the
class indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune.config.hyperparameters import TaskName
from finetune.data.json_text import parse_json
from finetune.data.label_parsing import label_name
from finetune.data.labels import LabelMap
from finetune.data.readers.channel_files import list_files, some_of
from finetune.data.readers.image_folder import other_files_of
from finetune.data.record import Reader, Record
from finetune.data.tables.text_lines import text_lines
from finetune.errors import DataError


class AnnouncedReader:
    """A `Reader` whose labels may be the indices of announced classes."""

    def __init__(self, reader: Reader, label_map: LabelMap) -> None:
        """Wrap `reader`; labels that match no announced class are left unchanged."""
        self.channel = reader.channel
        self.task: TaskName = reader.task
        self.left_out = reader.left_out
        self.other_files = other_files_of(reader)
        self._reader = reader
        self._label_map = label_map

    def __len__(self) -> int:
        """Number of records."""
        return len(self._reader)

    def key(self, index: int) -> str:
        """Return the key of record `index`."""
        return self._reader.key(index)

    def labels(self, index: int) -> tuple[str, ...]:
        """Return the class names of record `index`."""
        return tuple(self._label_map.resolve(label) or label for label in self._reader.labels(index))

    def clue(self, index: int) -> int:
        """Return the wrapped reader's content clue for record `index`."""
        return self._reader.clue(index)

    def read(self, index: int) -> Record:
        """Return record `index` with its content and class names."""
        return Record(self.key(index), self._reader.read(index).content, self.labels(index))


def read_label_file(channel: str, folder: Path) -> tuple[str, ...]:
    """Read the single file of a channel that lists the class names in index order.

    Raises:
        DataError: there is not exactly one file, its format is not supported, or indices are missing.
    """
    listing = list_files(channel, folder)
    if len(listing.keys) != 1:
        raise DataError(
            f"channel {channel!r} contains {len(listing.keys)} files ({some_of(listing.keys) or 'none'}); expected one"
            " file with the class names, one per line or as JSON"
        )
    key = listing.keys[0]
    lines = [line for _, line in text_lines(channel, listing.root, key)]
    where = f"channel {channel!r}: {key}"
    if "".join(lines).lstrip()[:1] in ("[", "{"):
        try:
            values = _names_from_json(parse_json("".join(lines)))
        except ValueError as error:
            raise DataError(f"{where} is not a valid label file: {error}") from error
    else:
        values = [line for line in lines if line.strip()]
    try:
        names = [label_name(value) for value in values]
    except ValueError as error:
        raise DataError(f"{where} is not a valid label file: {error}") from error
    if None in names:
        raise DataError(f"{where} contains an empty class name")
    return tuple(name for name in names if name is not None)


def _names_from_json(value: object) -> list[object]:
    """Return the names in index order."""
    if isinstance(value, Mapping) and isinstance(value.get("labels"), list):
        value = value["labels"]
    if isinstance(value, list):
        return [item.get("label") if isinstance(item, Mapping) else item for item in value]
    if not isinstance(value, Mapping):
        raise ValueError("expected a list of names, or an object that maps names to numbers")
    if all(str(key).isdecimal() for key in value):
        numbered = {int(str(key)): name for key, name in value.items()}
    else:
        numbered = {int(str(number)): name for name, number in value.items()}
    if len(numbered) < len(value) or sorted(numbered) != list(range(len(numbered))):
        raise ValueError(f"class numbers must be 0 to {len(value) - 1}, each exactly once")
    return [numbered[number] for number in range(len(numbered))]
