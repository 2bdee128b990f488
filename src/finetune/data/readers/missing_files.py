"""Tracks files that a list or manifest names but that are missing from the channel, with hints at the cause."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from finetune.data.bad_records import allowance
from finetune.data.readers.channel_files import Listing, some_of
from finetune.errors import DataError


class MissingFiles:
    """Named files that are missing from the channel; they count as bad records, up to `max_bad_records`."""

    def __init__(self, listing: Listing, limit: int) -> None:
        """Initialize without missing files.

        Args:
            listing: the channel's files.
            limit: maximum number of missing files.
        """
        self._listing = listing
        self._limit = limit
        self._missing: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(self, where: str, path: str, labels: tuple[str, ...]) -> None:
        """Record a missing file.

        Args:
            where: channel, file and line that name the missing file, for messages.
            path: path as written in the line.
            labels: classes of the file.

        Raises:
            DataError: if the limit is exceeded.
        """
        reason = missing_file_reason(path, path, self._listing)
        self._missing[path] = (f"{where.partition(': ')[2]} {reason}", labels)
        if len(self._missing) > self._limit:
            raise DataError(
                f"{where} {reason} ({allowance(len(self._missing), self._limit)}); correct the path or add the file, or"
                " raise max_bad_records to skip such records"
            )

    def left_out(self, labels: Collection[tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
        """Return the key and reason of every missing file.

        Args:
            labels: classes of each file that exists.

        Raises:
            DataError: if all files, or all files of a class, are missing.
        """
        present_classes = {name for names in labels for name in names}
        for path, (reason, names) in self._missing.items():
            missing_classes = [name for name in names if name not in present_classes]
            if missing_classes or not labels:
                what = f"every file of class {missing_classes[0]!r}" if missing_classes else "every listed file"
                raise DataError(
                    f"channel {self._listing.channel!r}: {what} is missing, such as {path!r}: {reason}; add the files,"
                    " or remove the lines that list them"
                )
        return tuple((path, reason) for path, (reason, _) in self._missing.items())


def missing_file_reason(name: str, path: str, listing: Listing) -> str:
    """Return that a named file is missing, with a hint at a similar file; follows the line that names it.

    Args:
        name: address or path as written in the line.
        path: path in the channel, according to the line.
        listing: the channel's files.
    """
    return (
        f"names {some_of([repr(name)])}, but channel {listing.channel!r} has no such file in {listing.root}"
        f"{_similar_file_hint(path, listing)}"
    )


def _similar_file_hint(path: str, listing: Listing) -> str:
    """Return a hint in parentheses at a similar file in the channel; empty if there is none."""
    if path in listing.skipped_links:
        return " (it is a symbolic link that is broken, circular or points outside the channel)"
    normalized = unicodedata.normalize("NFC", path)
    for key in listing.keys:
        if _ends_with(normalized, unicodedata.normalize("NFC", key)) and not _ends_with(path, key):
            path_form, key_form = (
                "composed" if unicodedata.is_normalized("NFC", name) else "decomposed" for name in (path, key)
            )
            return (
                f" (but {key!r}, which looks the same: its name has {key_form} Unicode characters, the listed name"
                f" {path_form} ones; use the same form for both)"
            )
    folded = normalized.casefold()
    for key in listing.keys:
        folded_key = unicodedata.normalize("NFC", key).casefold()
        if _ends_with(folded, folded_key) or _ends_with(folded_key, folded):
            return f" (did you mean {key!r}?)"
    return ""


def _ends_with(path: str, end: str) -> bool:
    """Return whether a path ends with another path, at a folder boundary."""
    return path == end or path.endswith(f"/{end}")
