"""Shortens class names for headings while keeping them distinct."""

from __future__ import annotations

from collections.abc import Sequence

_MIN_PREFIX_LENGTH = 3


def common_prefix(labels: Sequence[str]) -> str:
    """Return the common prefix of class names if long enough to obscure their differences."""
    if len(labels) < 2:
        return ""
    prefix = _shared_prefix(labels)
    if len(prefix) < _MIN_PREFIX_LENGTH or prefix in labels:
        return ""
    return prefix


def _shared_prefix(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def short_names(labels: Sequence[str], max_length: int, *, prefix: str = "") -> list[str]:
    """Shorten class names to about `max_length` characters, all distinct: cut where they do not differ.

    Args:
        labels: Class names, all different.
        max_length: Maximum number of characters.
        prefix: Common prefix to be left out.
    """
    rests = ["…" + label[len(prefix) :] if prefix else label for label in labels]
    shortened = [rest if len(rest) <= max_length else rest[: max_length - 1] + "…" for rest in rests]
    for name in {name for name in shortened if shortened.count(name) > 1}:
        indices = [index for index, other in enumerate(shortened) if other == name]
        shared = len(_shared_prefix([rests[index] for index in indices]))
        for index in indices:
            rest = rests[index][max(0, shared - 1) :]
            shortened[index] = "…" + (rest if len(rest) < max_length else rest[: max_length - 2] + "…")
    return [name if shortened.count(name) == 1 else f"{index + 1}: {name}" for index, name in enumerate(shortened)]
