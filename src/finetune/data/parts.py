"""Is a channel the root of a data set, with its parts for training, validation and test in it?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from finetune.data.channel_files import some_of
from finetune.errors import DataError

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Channel for each name that parts of a data set usually have."""
_BEGINNING = re.compile(r"[^\W\d_]+")


def check_class_folders(channel: str, pictures: Sequence[str]) -> None:
    """Refuse folders of classes one level too deep: `train` and `val` would become two classes, and hide the true ones.

    Raises:
        DataError: all folders are parts of a data set, with folders in them.
    """
    parts = _parts(pictures, lambda key: key.partition("/")[0])
    if parts and not any(key.count("/") == 1 for key in pictures):
        raise DataError(
            f"channel {channel!r}: its folders are {some_of(map(repr, parts), 8)}, and all pictures lie in folders"
            f" below these, so it is the root of a data set and not a folder per class; {_advice(parts)}"
        )


def check_files(channel: str, keys: Sequence[str]) -> None:
    """Refuse files of several parts: all records would be learnt from, also those that are to be held out.

    Raises:
        DataError: the files, or the folders that they are in, are named after different parts.
    """
    parts = _parts(keys, _part_of)
    if len(set(parts.values())) > 1:
        raise DataError(
            f"channel {channel!r} holds {some_of(map(repr, keys))}, so it is the root of a data set, and records to"
            f" validate or test with would be taken for the channel's own; {_advice(parts)}"
        )


def _part_of(key: str) -> str:
    """The first word of the first folder or file on a path that is named after a part, or of the first of all."""
    words = [found[0] if (found := _BEGINNING.match(name)) else "" for name in key.split("/")]
    return next((word for word in words if word.lower() in _PARTS), words[0])


def _parts(keys: Sequence[str], name_of: Callable[[str], str]) -> dict[str, str]:
    """Channel of each name, where all names are parts; otherwise none."""
    names = {name_of(key): "" for key in sorted(keys)}
    parts = {name: _PARTS[name.lower()] for name in names if name.lower() in _PARTS}
    return parts if len(parts) == len(names) else {}


def _advice(parts: dict[str, str]) -> str:
    channels = ", ".join(f"{part}=.../{name}" for name, part in parts.items())
    return f"give each part a channel: {channels}"
