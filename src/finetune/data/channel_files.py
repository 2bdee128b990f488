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
_LEFT_BY_DESKTOPS = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Listing:
    """The visible files below a folder.

    Attributes:
        channel: name of the channel, for messages.
        root: the folder, absolute and without symbolic links.
        keys: path of every regular file relative to `root`, with `/`, in the order of their UTF-8 bytes.
        folders: names of the folders directly in `root`, in the same order.
    """

    channel: str
    root: Path
    keys: tuple[str, ...]
    folders: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    root: str
    keys: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def list_files(channel: str, folder: Path) -> Listing:
    """List what a channel brings, the same on every file system.

    Hidden files and folders (`.ipynb_checkpoints` among them) and what desktops leave behind (`__MACOSX`, `Thumbs.db`)
    are passed over. A symbolic link counts as the file that it leads to; one that leads out of the folder, to another
    folder or nowhere is passed over with a warning, since it would read what the channel was not given.

    Raises:
        DataError: the folder is missing, is none, or cannot be listed; a name is not UTF-8.
    """
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"channel {channel!r}: {folder} {fault}; give the channel a folder with pictures or tables")
    found = _Found(os.path.realpath(folder))
    waiting = [""]
    try:
        while waiting:
            waiting.extend(_scan(waiting.pop(), found))
    except OSError as error:
        raise DataError(f"channel {channel!r}: {error.filename} cannot be listed: {error.strerror}") from error
    _check_names(channel, found)
    if found.links:
        _log.warning(
            "channel %r: passed over %d symbolic links that lead out of it, to a folder or nowhere: %s",
            channel,
            len(found.links),
            some_of(sorted(found.links)),
        )
    # Code points and UTF-8 bytes sort alike, so no key function slows down 100,000 names.
    return Listing(channel, Path(found.root), tuple(sorted(found.keys)), tuple(sorted(found.folders)))


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


def _scan(prefix: str, found: _Found) -> list[str]:
    deeper = []
    with os.scandir(f"{found.root}/{prefix}") as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name.lower() in _LEFT_BY_DESKTOPS:
                continue
            if entry.is_dir(follow_symlinks=False):
                deeper.append(f"{prefix}{name}/")
                if not prefix:
                    found.folders.append(name)
            elif entry.is_symlink() and not _leads_to_file_inside(entry.path, found.root):
                found.links.append(prefix + name)
            elif entry.is_file():
                found.keys.append(prefix + name)
    return deeper


def _leads_to_file_inside(link: str, root: str) -> bool:
    target = os.path.realpath(link)
    return target.startswith(root.rstrip("/") + "/") and Path(target).is_file()


def _check_names(channel: str, found: _Found) -> None:
    for name in (*found.keys, *found.folders):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="backslashreplace")
            raise DataError(f"channel {channel!r}: the name {shown} is not UTF-8; rename it") from None
