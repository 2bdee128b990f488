"""Lists the files in a channel's folder."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import DataError

_log = logging.getLogger(__name__)

# Limit for a list of names; SageMaker shows only the first 1,024 characters of a message.
_MAX_SHOWN_CHARACTERS = 400
_DESKTOP_FILES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"})
_STORAGE_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "#snapshot", "@snapshot", "~snapshot"),
        *("@recently-snapshot", "lost+found", "system volume information"),
    }
)
_MAX_LINKED_FOLDERS = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """The visible files below a folder.

    Attributes:
        channel: name of the channel, for messages.
        root: the folder, absolute and without symbolic links.
        keys: paths of all regular files relative to `root`, separated by `/`, sorted by their UTF-8 bytes.
        folders: names of the folders directly in `root`, in the same order.
        skipped_links: symbolic links that are not followed, since they are broken, circular or leave `root`.
    """

    channel: str
    root: Path
    keys: tuple[str, ...]
    folders: tuple[str, ...]
    skipped_links: tuple[str, ...] = ()


@dataclass(slots=True)
class _FoundFiles:
    root: str
    keys: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    followed: int = 0
    storage_folders: Counter[str] = field(default_factory=Counter)


def list_files(channel: str, folder: Path) -> Listing:
    """List the files of a channel, in an order that does not depend on the file system.

    Hidden files and folders (including `.ipynb_checkpoints`) and desktop metadata (`__MACOSX`, `Thumbs.db`) are
    skipped. Folders created by storage devices (`@eaDir`, `lost+found`) are skipped with a warning. Symbolic links are
    followed, except that broken links, circular links and links out of the channel are skipped with a warning:
    following the last would read data that is not part of the channel.

    Raises:
        DataError: if the folder is missing, not a folder or unreadable, a name is not UTF-8, or links expand endlessly.
    """
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"channel {channel!r}: {folder} {fault}; provide a folder with images or tables")
    files = _FoundFiles(os.path.realpath(folder))
    pending = [_Folder("", files.root, frozenset({files.root}))]
    try:
        while pending:
            pending.extend(_scan(pending.pop(), files))
            if files.followed > _MAX_LINKED_FOLDERS:
                raise DataError(
                    f"channel {channel!r}: symbolic links in {folder} expand to more than {_MAX_LINKED_FOLDERS:,}"
                    " folders; remove links that point to each other"
                )
    except OSError as error:
        raise DataError(f"channel {channel!r}: {error.filename} cannot be listed: {error.strerror}") from error
    _check_names(channel, files)
    if files.links:
        _log.warning(
            "channel %r: skipped %d symbolic links that are broken, circular or point outside the channel: %s",
            channel,
            len(files.links),
            some_of(sorted(files.links)),
        )
    if files.storage_folders:
        listed = sorted(files.storage_folders.items())
        _log.warning(
            "channel %r: skipped system folders of storage devices and operating systems: %s",
            channel,
            some_of([f"{name!r} ({count})" for name, count in listed], 8),
        )
    # Code points sort in the same order as UTF-8 bytes, so 100,000 names can be sorted without a key function.
    keys, folders, links = (tuple(sorted(names)) for names in (files.keys, files.folders, files.links))
    return Listing(channel, Path(files.root), keys, folders, links)


def is_system_file(name: str) -> bool:
    """Return whether a file or folder is hidden or system metadata, judging by its name."""
    return name.startswith(".") or name.lower() in _DESKTOP_FILES | _STORAGE_FOLDERS


def ending_of(key: str) -> str:
    """Return the lower-case file ending with its dot, such as `.jpg`, or an empty string."""
    name = key.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem else ""


def count_endings(keys: Iterable[str]) -> str:
    """Format the number of files per ending, such as `12 .gif, 1 without ending`."""
    counts = Counter(ending_of(key) or "without ending" for key in keys)
    sorted_counts = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return some_of([f"{count} {ending}" for ending, count in sorted_counts], limit=8)


def some_of(names: Iterable[str], limit: int = 3) -> str:
    """Format the first few names, truncated if long, and the number of remaining names."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    max_length = _MAX_SHOWN_CHARACTERS // limit
    shown = [name if len(name) <= max_length else name[: max_length - 3] + "..." for name in listed[:limit]]
    return ", ".join(shown) + more


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to scan.

    Attributes:
        prefix: prefix of the keys of its files, ending in `/`.
        path: resolved path of the folder.
        ancestors: resolved paths of the folder and its ancestors.
    """

    prefix: str
    path: str
    ancestors: frozenset[str]


def _scan(folder: _Folder, files: _FoundFiles) -> list[_Folder]:
    subfolders = []
    with os.scandir(f"{files.root}/{folder.prefix}") as entries:
        for entry in entries:
            name, key = entry.name, folder.prefix + entry.name
            if is_system_file(name):
                if name.lower() in _STORAGE_FOLDERS and entry.is_dir():
                    files.storage_folders[name] += 1
                continue
            path = f"{folder.path}/{name}"
            if entry.is_symlink():
                path = os.path.realpath(path)
                if not _may_follow(path, folder, files):
                    files.links.append(key)
                    continue
                files.followed += entry.is_dir()
            if entry.is_dir():
                subfolders.append(_Folder(f"{key}/", path, folder.ancestors | {path}))
                if not folder.prefix:
                    files.folders.append(name)
            elif entry.is_file():
                files.keys.append(key)
    return subfolders


def _may_follow(target: str, folder: _Folder, files: _FoundFiles) -> bool:
    """Return whether a link in `folder` points to a file or folder of the channel other than its own ancestors."""
    if not target.startswith(files.root.rstrip("/") + "/"):
        return False
    is_ancestor = target in folder.ancestors or f"{folder.path}/".startswith(f"{target}/")
    return Path(target).is_file() or (Path(target).is_dir() and not is_ancestor)


def _check_names(channel: str, files: _FoundFiles) -> None:
    for name in (*files.keys, *files.folders):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="backslashreplace")
            raise DataError(f"channel {channel!r}: the file name {shown} is not UTF-8; rename the file") from None
