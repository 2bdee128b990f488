"""Which files does a channel's folder hold?"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import DataError

_log = logging.getLogger(__name__)

# Of a list of names; the platform shows the first 1,024 characters of a message.
_SHOWN_CHARACTERS = 400
_LEFT_BY_DESKTOPS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"})
_LEFT_BY_STORAGE = frozenset(
    {
        *("@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "#snapshot", "@snapshot", "~snapshot"),
        *("@recently-snapshot", "lost+found", "system volume information"),
    }
)
_MOST_LINKED_FOLDERS = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """The visible files below a folder.

    Attributes:
        channel: name of the channel, for messages.
        root: the folder, absolute and without symbolic links.
        keys: path of every regular file relative to `root`, with `/`, in the order of their UTF-8 bytes.
        folders: names of the folders directly in `root`, in the same order.
        lost_links: symbolic links that are not followed, since they lead out of `root`, in a circle or nowhere.
    """

    channel: str
    root: Path
    keys: tuple[str, ...]
    folders: tuple[str, ...]
    lost_links: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    root: str
    keys: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    followed: int = 0
    storage: Counter[str] = field(default_factory=Counter)


def list_files(channel: str, folder: Path) -> Listing:
    """List what a channel brings, the same on every file system.

    Hidden files and folders (`.ipynb_checkpoints` among them) and what desktops leave behind (`__MACOSX`, `Thumbs.db`)
    are passed over, and with a warning the folders of storage devices (`@eaDir`, `lost+found`). A symbolic link counts
    as the file or folder that it leads to; one that leads out of the channel, in a circle or nowhere is passed over
    with a warning, since it would read what the channel was not given.

    Raises:
        DataError: the folder is missing, is none, or cannot be listed; a name is not UTF-8; links make it endless.
    """
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"channel {channel!r}: {folder} {fault}; give the channel a folder with pictures or tables")
    found = _Found(os.path.realpath(folder))
    waiting = [_Folder("", found.root, frozenset({found.root}))]
    try:
        while waiting:
            waiting.extend(_scan(waiting.pop(), found))
            if found.followed > _MOST_LINKED_FOLDERS:
                raise DataError(
                    f"channel {channel!r}: symbolic links lead to more than {_MOST_LINKED_FOLDERS:,} folders of"
                    f" {folder}; remove those that lead to each other"
                )
    except OSError as error:
        raise DataError(f"channel {channel!r}: {error.filename} cannot be listed: {error.strerror}") from error
    _check_names(channel, found)
    if found.links:
        _log.warning(
            "channel %r: passed over %d symbolic links that lead out of it, in a circle or nowhere: %s",
            channel,
            len(found.links),
            some_of(sorted(found.links)),
        )
    if found.storage:
        listed = sorted(found.storage.items())
        _log.warning(
            "channel %r: passed over folders that storage devices and operating systems make: %s",
            channel,
            some_of([f"{name!r} ({count})" for name, count in listed], 8),
        )
    # Code points and UTF-8 bytes sort alike, so no key function slows down 100,000 names.
    keys, folders, links = (tuple(sorted(names)) for names in (found.keys, found.folders, found.links))
    return Listing(channel, Path(found.root), keys, folders, links)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or made by an operating system or a storage device, by its name."""
    return name.startswith(".") or name.lower() in _LEFT_BY_DESKTOPS | _LEFT_BY_STORAGE


def ending_of(key: str) -> str:
    """The ending of a file's name in lower case with its dot, such as `.jpg`; empty where it has none."""
    name = key.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem else ""


def count_endings(keys: Iterable[str]) -> str:
    """Say how many files there are of each ending, such as `12 .gif, 1 without ending`."""
    counts = Counter(ending_of(key) or "without ending" for key in keys)
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return some_of([f"{count} {ending}" for ending, count in listed], limit=8)


def some_of(names: Iterable[str], limit: int = 3) -> str:
    """The first few of many names, cut where they are long, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    longest = _SHOWN_CHARACTERS // limit
    return ", ".join(name if len(name) <= longest else name[: longest - 3] + "..." for name in listed[:limit]) + more


def spelled_otherwise(name: str, keys: Iterable[str]) -> str:
    """Name the file that only differs in case or in the Unicode form, for messages; empty where there is none."""
    for key in keys:
        there = key.rpartition("/")[2]
        if there != name and _folded(there) == _folded(name):
            return f" (but {key!r}, {there!a} instead of {name!a}: another case or Unicode form)"
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to list.

    Attributes:
        prefix: of its files' keys, ending in `/`.
        path: of the folder itself, without links.
        above: the folders on the way to it, without links, and itself.
    """

    prefix: str
    path: str
    above: frozenset[str]


def _scan(folder: _Folder, found: _Found) -> list[_Folder]:
    deeper = []
    with os.scandir(f"{found.root}/{folder.prefix}") as entries:
        for entry in entries:
            name, key = entry.name, folder.prefix + entry.name
            if is_leftover(name):
                if name.lower() in _LEFT_BY_STORAGE and entry.is_dir():
                    found.storage[name] += 1
                continue
            path = f"{folder.path}/{name}"
            if entry.is_symlink():
                path = os.path.realpath(path)
                if not _may_follow(path, folder, found):
                    found.links.append(key)
                    continue
                found.followed += entry.is_dir()
            if entry.is_dir():
                deeper.append(_Folder(f"{key}/", path, folder.above | {path}))
                if not folder.prefix:
                    found.folders.append(name)
            elif entry.is_file():
                found.keys.append(key)
    return deeper


def _may_follow(target: str, folder: _Folder, found: _Found) -> bool:
    """Whether a link in `folder` leads to a file or folder of the channel that is not on the way to it."""
    if not target.startswith(found.root.rstrip("/") + "/"):
        return False
    is_around = target in folder.above or f"{folder.path}/".startswith(f"{target}/")
    return Path(target).is_file() or (Path(target).is_dir() and not is_around)


def _check_names(channel: str, found: _Found) -> None:
    for name in (*found.keys, *found.folders):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="backslashreplace")
            raise DataError(f"channel {channel!r}: the name {shown} is not UTF-8; rename it") from None
