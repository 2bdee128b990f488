"""Checks the class names of a channel: names that look similar, and several classes in one name."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

from finetune.data.label_parsing import LABEL_SEPARATOR
from finetune.data.readers.channel_files import some_of
from finetune.errors import UserError, did_you_mean

_log = logging.getLogger(__name__)

_SEPARATORS = (LABEL_SEPARATOR, ";", ",", "/", "+")
_WHITESPACE = ("\n", " ")
"""Separators that also occur within names of single classes."""
_MIN_RECORDS = 10
_NUMBER = re.compile(r"[+-]?[0-9]{1,50}(?:\.[0-9]{1,50})?")
_LIST_CHARACTERS = " []'\""
"""Characters around names in a list that was written as text."""


def check_class_names(
    channel: str, names: Sequence[str], *, records: int, multi_label: bool, has_several: bool
) -> None:
    """Warn about class names that are probably mistakes, and refuse invalid ones.

    Args:
        channel: name of the channel, for messages.
        names: class names.
        records: number of records of the channel.
        multi_label: whether a record may have several classes.
        has_several: whether any record has several classes.

    Raises:
        UserError: with `multi_label`, no record has several classes, but class names are composed of other class names.
    """
    for group in similar_names(names):
        similar = " and ".join(_quoted(name, group) for name in group)
        _log.warning("channel %r: classes %s look alike; correct the labels if they are one class", channel, similar)
    if records >= _MIN_RECORDS and 2 * len(names) > records:
        _log.warning(
            "channel %r has %d classes in %d records; check that the label is read from the right column",
            channel,
            len(names),
            records,
        )
    if has_several:
        return
    for separator in (*_SEPARATORS, *(_WHITESPACE if multi_label else ())):
        joint_names = _joint_names(names, separator)
        if joint_names and multi_label and separator != LABEL_SEPARATOR:
            raise UserError(
                f"multi_label=true, but no record of channel {channel!r} has several classes, and classes such as"
                f" {some_of(map(repr, joint_names))} contain other class names, separated by {separator!r}; separate"
                f" the classes of a record by {LABEL_SEPARATOR!r} or use a JSON list; if these are single classes, list"
                " all classes in class_names"
            )
        if len(joint_names) > 1 and not multi_label:
            _log.warning(
                "channel %r: %d of %d classes, such as %s, consist of other class names, separated by %r; set"
                " multi_label=true (with %r between names) if a record may have several classes",
                channel,
                len(joint_names),
                len(names),
                some_of(map(repr, joint_names)),
                separator,
                LABEL_SEPARATOR,
            )


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in case, whitespace, Unicode form, or zeros around a number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def suggest_name(name: str, names: Collection[str]) -> str:
    """Return ` (did you mean 'x'?)` for the name that looks similar or has the most similar spelling."""
    folded = _folded(name)
    similar = next((candidate for candidate in names if candidate != name and _folded(candidate) == folded), None)
    return f" (did you mean {_quoted(similar, [name, similar])}?)" if similar is not None else did_you_mean(name, names)


def is_number(name: str) -> bool:
    """Return whether a class name is a number, such as `1`, `01` or `1.0`."""
    return _NUMBER.fullmatch(name.strip()) is not None


def _folded(name: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return str(Decimal(folded).normalize() + 0) if _NUMBER.fullmatch(folded) else folded


def _quoted(name: str, group: Collection[str]) -> str:
    """Return the quoted name, escaped if another name of the group looks the same."""
    count = sum(unicodedata.normalize("NFKC", candidate) == unicodedata.normalize("NFKC", name) for candidate in group)
    return ascii(name) if count > 1 else repr(name)


def _joint_names(names: Sequence[str], separator: str) -> list[str]:
    """Return names whose parts are all names themselves or, unless split at whitespace, parts of other names."""
    parts = {name: {part.strip(_LIST_CHARACTERS) for part in name.split(separator)} - {""} for name in names}
    counts = Counter(part for name_parts in parts.values() for part in name_parts)
    known_parts = set(names) if separator in _WHITESPACE else {part for part, count in counts.items() if count > 1}
    return [name for name, name_parts in parts.items() if len(name_parts) > 1 and name_parts <= known_parts]
