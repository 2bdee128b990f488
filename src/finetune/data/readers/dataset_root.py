"""Detects channels that point to a dataset root with training, validation and test splits."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from finetune.data.readers.channel_files import some_of
from finetune.errors import DataError

_log = logging.getLogger(__name__)

_SPLITS = {
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
_MORE_SPLIT_WORDS = {
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
_WORD = re.compile(r"[^\W\d_]+")
_MAX_COMPARED = 200
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


def check_class_folders(channel: str, images: Sequence[str], class_names: Sequence[str] = ()) -> None:
    """Refuse folders that are not classes: dataset splits, which would hide the true classes, and system metadata.

    Splits are detected by structure (their sub-folders have the same names) or by name (all folders are named as
    splits). Folders listed in `class_names` always count as classes. Logs a warning if images are nested below their
    class folder.

    Args:
        channel: name of the channel.
        images: keys of the images, each of them in a folder.
        class_names: class names declared by the user.

    Raises:
        DataError: if the folders are dataset splits, or one was created by a storage device.
    """
    folders = _tree(images)
    if not set(folders) <= set(class_names):
        _check_names(channel, folders)
        _check_structure(channel, folders)
        _check_system_folders(channel, folders, class_names)
    nested = {name: node for name, node in sorted(folders.items()) if node.has_nested_images()}
    if nested:
        first, node = next(iter(nested.items()))
        path, inner = node.innermost()
        _log.warning(
            "channel %r: %d of %d class folders have images in sub-folders; the class is the first folder of the path,"
            " such as %r for %s",
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
    splits = {name: _split_of_folder(name) for name in folders}
    splits_by_name = {name: split for name, split in splits.items() if split is not None}
    if not splits_by_name or len(splits_by_name) < len(folders):
        return
    listed = some_of(map(repr, splits_by_name), 8)
    if all(name.lower() in _SPLITS for name in splits_by_name) and not any(node.images for node in folders.values()):
        raise DataError(
            f"channel {channel!r}: its folders are {listed}, and all images are in folders below these, so it is a"
            f" dataset root instead of a folder per class; {_channel_hint(_split_locations(folders))}"
        )
    if len({split or name for name, split in splits_by_name.items()}) > 1:
        raise DataError(
            f"channel {channel!r}: its folders are {listed}, so it is a dataset root instead of a folder per"
            f" class; {_channel_hint(_split_locations(folders))}, or"
            f" {_class_names_hint(folders)} if these are the classes"
        )


def _check_structure(channel: str, folders: Mapping[str, _Node]) -> None:
    """Refuse the folders if at least two, and half of all, have sub-folders of the same names."""
    inner = {name: set(node.innermost()[1].children) for name, node in folders.items()}
    similar: set[str] = set()
    shared: set[str] = set()
    for first, second in _folder_pairs(inner):
        common = inner[first] & inner[second]
        if len(common) >= 2 and 2 * len(common) >= min(len(inner[first]), len(inner[second])):
            similar |= {first, second}
            shared |= common
    if not similar or 2 * len(similar) < len(folders):
        return
    summary = (
        f"channel {channel!r}: its folders {some_of(map(repr, sorted(similar)), 8)} contain folders of the same names"
        f" ({some_of(map(repr, sorted(shared)))})"
    )
    if all(_split_of_folder(name) is not None for name in shared):
        raise DataError(
            f"{summary}, which are dataset splits; use a folder per split with a folder per class in it, and a channel"
            " per split"
        )
    raise DataError(
        f"{summary}, so it is a dataset root instead of a folder per class;"
        f" {_channel_hint(_split_locations(folders))}, or {_class_names_hint(folders)} if these are the classes"
    )


def _class_names_hint(folders: Mapping[str, _Node]) -> str:
    names = ",".join(folders)
    return f"set class_names={names}" if len(names) <= 200 else "set class_names to the names of these folders"


def _folder_pairs(names: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of folders with several sub-folders; only adjacent pairs if there are very many folders."""
    candidates = [name for name, inner in names.items() if len(inner) >= 2]
    yield from combinations(candidates, 2) if len(candidates) <= _MAX_COMPARED else pairwise(candidates)


def _check_system_folders(channel: str, folders: Mapping[str, _Node], class_names: Sequence[str]) -> None:
    """Refuse a class folder that appears to be created by a storage device or a program."""
    marked = [name for name in folders if len(name) > 1 and name.startswith(_STORAGE_MARKS) and name not in class_names]
    if marked and 2 * len(marked) < len(folders):
        raise DataError(
            f"channel {channel!r}: folder {marked[0]!r} looks like a system folder of a storage device or an operating"
            f" system and would become a class; remove it, or {_class_names_hint(folders)} if it is a class"
        )
    occurrences = Counter(name for node in folders.values() for name in _names_below(node))
    for name in folders:
        if occurrences[name] >= 2 and name not in class_names:
            raise DataError(
                f"channel {channel!r}: folder {name!r} exists next to the class folders and in {occurrences[name]} of"
                " them, so it appears to be created by a program and would become a class; remove it, or"
                f" {_class_names_hint(folders)} if it is a class"
            )
    for name in folders:
        if len(name) > 1 and name.startswith("_") and name not in class_names:
            _log.warning("channel %r: folder %r is treated as a class; remove it if it is not a class", channel, name)


def _names_below(node: _Node) -> set[str]:
    names: set[str] = set()
    pending = [node]
    while pending:
        children = pending.pop().children
        names |= set(children)
        pending.extend(children.values())
    return names


def _split_of_folder(name: str) -> str | None:
    """Return the channel of a split name, an empty string for a split without a channel, `None` for other names."""
    channels = _SPLITS | _MORE_SPLIT_WORDS
    words = [word.lower() for word in _WORD.findall(name)]
    return next((channels[word] for word in words if word in channels), None)


def _split_locations(folders: Mapping[str, _Node]) -> dict[str, str]:
    """Return the channel of each split, by the path of the folder that contains the class folders."""
    locations = {}
    for name, node in folders.items():
        split = _split_of_folder(name)
        path, inner = node.innermost()
        locations[name + (path if inner.children else "")] = split or ""
    return locations


def check_single_split(channel: str, keys: Sequence[str]) -> None:
    """Refuse files of several splits: the model would be trained on all records, including held-out ones.

    Raises:
        DataError: if the files or their folders are named after different splits.
    """
    splits = _splits_of_files(keys)
    if len(set(splits.values())) > 1:
        raise DataError(
            f"channel {channel!r} contains {some_of(map(repr, keys))}, so it is a dataset root, and validation or test"
            f" records would be used for training; {_channel_hint(splits)}"
        )


def _first_split_word(key: str) -> str:
    """Return the first word of the first path component named after a split, else of the first component."""
    words = [match[0] if (match := _WORD.match(name)) else "" for name in key.split("/")]
    return next((word for word in words if word.lower() in _SPLITS), words[0])


def _splits_of_files(keys: Sequence[str]) -> dict[str, str]:
    """Return the channel of each split if all files are named after splits, else an empty mapping."""
    words = dict.fromkeys(_first_split_word(key) for key in sorted(keys))
    splits = {word: _SPLITS[word.lower()] for word in words if word.lower() in _SPLITS}
    return splits if len(splits) == len(words) else {}


def _channel_hint(splits: Mapping[str, str]) -> str:
    """Return advice on the splits, given their channels; if none has a channel, the first serves as an example."""
    splits_by_name = {location: split for location, split in splits.items() if split}
    if not splits_by_name:
        return f"use the folder that contains the class folders as the channel, such as .../{next(iter(splits))}"
    channels = ", ".join(f"{split}=.../{location}" for location, split in splits_by_name.items())
    return f"use a channel per split: {channels}"
