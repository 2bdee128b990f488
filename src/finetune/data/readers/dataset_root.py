"""Detects channels that point to a dataset root with training, validation and test splits."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from finetune.data.readers.channel_files import some_of
from finetune.errors import DataError

_log = logging.getLogger(__name__)

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
"""Channel by usual name of a dataset split."""
_FURTHER_PARTS = {
    "trainset": "train",
    "trainingset": "train",
    "valset": "validation",
    "validationset": "validation",
    "devset": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "testset": "test",
    "holdout": "test",
    "fold": "",
    "pred": "",
    "split": "",
    "unlabeled": "",
    "unlabelled": "",
}
"""Further words in split names; an empty string means that no channel corresponds to the split."""
_BEGINNING = re.compile(r"[^\W\d_]+")
_MOST_COMPARED = 200
_STORAGE_MARKS = ("@", "$", "#", "~")
"""First characters of folder names created by storage devices and operating systems."""


@dataclass(slots=True)
class _Node:
    """A folder with its sub-folders and the number of images directly in it."""

    images: int = 0
    children: dict[str, _Node] = field(default_factory=dict)

    def innermost(self) -> tuple[str, _Node]:
        """Return the first descendant with images or several folders, and its path relative to this folder."""
        node, path = self, ""
        while not node.images and len(node.children) == 1:
            name, node = next(iter(node.children.items()))
            path += f"/{name}"
        return path, node

    def has_nested_images(self) -> bool:
        """Return whether images are spread over several folders at or below this one."""
        node = self.innermost()[1]
        return bool(node.children)


def check_class_folders(channel: str, pictures: Sequence[str], class_names: Sequence[str] = ()) -> None:
    """Refuse folders that are not classes: dataset splits, which would hide the true classes, and system metadata.

    Splits are detected by structure (their sub-folders have the same names) or by name (all folders are named as
    splits). Folders listed in `class_names` always count as classes. Logs a warning if images are nested below their
    class folder.

    Args:
        channel: name of the channel.
        pictures: keys of the images, each of them in a folder.
        class_names: class names declared by the user.

    Raises:
        DataError: if the folders are dataset splits, or one was created by a storage device.
    """
    folders = _tree(pictures)
    if not set(folders) <= set(class_names):
        _check_names(channel, folders)
        _check_structure(channel, folders)
        _check_leftovers(channel, folders, class_names)
    nested = {name: node for name, node in sorted(folders.items()) if node.has_nested_images()}
    if nested:
        first, node = next(iter(nested.items()))
        path, inner = node.innermost()
        _log.warning(
            "channel %r: images lie in sub-folders of %d of %d class folders; their class is the first folder on the"
            " path, such as %r for all of %s",
            channel,
            len(nested),
            len(folders),
            first,
            some_of([repr(f"{first}{path}/{name}") for name in sorted(inner.children)]),
        )


def _tree(keys: Sequence[str]) -> dict[str, _Node]:
    root = _Node()
    for folder, count in Counter(key.rpartition("/")[0] for key in keys).items():
        node = root
        for name in folder.split("/"):
            node = node.children.setdefault(name, _Node())
        node.images += count
    return dict(sorted(root.children.items()))


def _check_names(channel: str, folders: Mapping[str, _Node]) -> None:
    """Refuse folders that all have names of dataset splits."""
    parts = {name: _part_named(name) for name in folders}
    named = {name: part for name, part in parts.items() if part is not None}
    if not named or len(named) < len(folders):
        return
    listed = some_of(map(repr, named), 8)
    if all(name.lower() in _PARTS for name in named) and not any(node.images for node in folders.values()):
        raise DataError(
            f"channel {channel!r}: its folders are {listed}, and all pictures lie in folders below these, so it is the"
            f" root of a data set and not a folder per class; {_advice(_places(folders))}"
        )
    if len({part or name for name, part in named.items()}) > 1:
        raise DataError(
            f"channel {channel!r}: its folders are {listed}, so it is the root of a data set and not a folder per"
            f" class; {_advice(_places(folders))}, or {_announce(folders)} if these are the classes"
        )


def _check_structure(channel: str, folders: Mapping[str, _Node]) -> None:
    """Refuse the folders if at least two, and half of all, have sub-folders of the same names."""
    inner = {name: set(node.innermost()[1].children) for name, node in folders.items()}
    alike: set[str] = set()
    shared: set[str] = set()
    for first, second in _pairs(inner):
        common = inner[first] & inner[second]
        if len(common) >= 2 and 2 * len(common) >= min(len(inner[first]), len(inner[second])):
            alike |= {first, second}
            shared |= common
    if not alike or 2 * len(alike) < len(folders):
        return
    said = (
        f"channel {channel!r}: its folders {some_of(map(repr, sorted(alike)), 8)} hold folders of the same names"
        f" ({some_of(map(repr, sorted(shared)))})"
    )
    if all(_part_named(name) is not None for name in shared):
        raise DataError(
            f"{said}, which are parts of a data set; rearrange them to a folder per part with a folder per class in it,"
            " and give each part a channel"
        )
    raise DataError(
        f"{said}, so it is the root of a data set and not a folder per class; {_advice(_places(folders))}, or"
        f" {_announce(folders)} if these are the classes"
    )


def _announce(folders: Mapping[str, _Node]) -> str:
    names = ",".join(folders)
    return f"set class_names={names}" if len(names) <= 200 else "set class_names to the names of these folders"


def _pairs(names: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of folders with several sub-folders; only adjacent pairs if there are very many folders."""
    several = [name for name, inner in names.items() if len(inner) >= 2]
    yield from combinations(several, 2) if len(several) <= _MOST_COMPARED else pairwise(several)


def _check_leftovers(channel: str, folders: Mapping[str, _Node], class_names: Sequence[str]) -> None:
    """Refuse a class folder that appears to be created by a storage device or a program."""
    marked = [name for name in folders if len(name) > 1 and name.startswith(_STORAGE_MARKS) and name not in class_names]
    if marked and 2 * len(marked) < len(folders):
        raise DataError(
            f"channel {channel!r}: folder {marked[0]!r} looks like one that a storage device or an operating system"
            f" makes, and would become a class; remove it, or {_announce(folders)} if it is one"
        )
    inside = Counter(name for node in folders.values() for name in _names_below(node))
    for name in folders:
        if inside[name] >= 2 and name not in class_names:
            raise DataError(
                f"channel {channel!r}: folder {name!r} lies beside the class folders and in {inside[name]} of them too,"
                f" so a program seems to have made it, and it would become a class; remove it, or"
                f" {_announce(folders)} if it is one"
            )
    for name in folders:
        if len(name) > 1 and name.startswith("_") and name not in class_names:
            _log.warning("channel %r: folder %r is taken for a class; remove it if it is none", channel, name)


def _names_below(node: _Node) -> set[str]:
    names: set[str] = set()
    waiting = [node]
    while waiting:
        children = waiting.pop().children
        names |= set(children)
        waiting.extend(children.values())
    return names


def _part_named(name: str) -> str | None:
    """Return the channel of a split name, an empty string for a split without a channel, `None` for other names."""
    known = _PARTS | _FURTHER_PARTS
    words = [word.lower() for word in _BEGINNING.findall(name)]
    return next((known[word] for word in words if word in known), None)


def _places(folders: Mapping[str, _Node]) -> dict[str, str]:
    """Return the channel of each split, by the path of the folder that contains the class folders."""
    places = {}
    for name, node in folders.items():
        part = _part_named(name)
        path, inner = node.innermost()
        places[name + (path if inner.children else "")] = part or ""
    return places


def check_single_split(channel: str, keys: Sequence[str]) -> None:
    """Refuse files of several splits: the model would be trained on all records, including held-out ones.

    Raises:
        DataError: if the files or their folders are named after different splits.
    """
    parts = _parts(keys, _part_of)
    if len(set(parts.values())) > 1:
        raise DataError(
            f"channel {channel!r} holds {some_of(map(repr, keys))}, so it is the root of a data set, and records to"
            f" validate or test with would be taken for the channel's own; {_advice(parts)}"
        )


def _part_of(key: str) -> str:
    """Return the first word of the first path component named after a split, else of the first component."""
    words = [found[0] if (found := _BEGINNING.match(name)) else "" for name in key.split("/")]
    return next((word for word in words if word.lower() in _PARTS), words[0])


def _parts(keys: Sequence[str], name_of: Callable[[str], str]) -> dict[str, str]:
    """Return the channel of each name if all names are splits, else an empty mapping."""
    names = {name_of(key): "" for key in sorted(keys)}
    parts = {name: _PARTS[name.lower()] for name in names if name.lower() in _PARTS}
    return parts if len(parts) == len(names) else {}


def _advice(parts: Mapping[str, str]) -> str:
    """Return advice on the splits, given their channels; if none has a channel, the first serves as an example."""
    named = {place: part for place, part in parts.items() if part}
    if not named:
        return f"give the channel the folder that holds the classes, such as .../{next(iter(parts))}"
    channels = ", ".join(f"{part}=.../{place}" for place, part in named.items())
    return f"give each part a channel: {channels}"
