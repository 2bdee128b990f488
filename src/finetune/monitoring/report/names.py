"""Shortens class names for headings while keeping them distinct."""

from __future__ import annotations

from collections.abc import Sequence

_SHORTEST_BEGINNING = 3


def common_beginning(labels: Sequence[str]) -> str:
    """Return the common prefix of class names if long enough to obscure their differences."""
    if len(labels) < 2:
        return ""
    beginning = _shared_beginning(labels)
    if len(beginning) < _SHORTEST_BEGINNING or beginning in labels:
        return ""
    return beginning


def _shared_beginning(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def short_names(labels: Sequence[str], longest: int, *, without: str = "") -> list[str]:
    """Shorten class names to about `longest` characters, all distinct: cut where they do not differ.

    Args:
        labels: Class names, all different.
        longest: Maximum number of characters.
        without: Common prefix to be left out.
    """
    rests = ["…" + label[len(without) :] if without else label for label in labels]
    short = [rest if len(rest) <= longest else rest[: longest - 1] + "…" for rest in rests]
    for name in {one for one in short if short.count(one) > 1}:
        alike = [at for at, one in enumerate(short) if one == name]
        differs = len(_shared_beginning([rests[at] for at in alike]))
        for at in alike:
            rest = rests[at][max(0, differs - 1) :]
            short[at] = "…" + (rest if len(rest) < longest else rest[: longest - 2] + "…")
    return [one if short.count(one) == 1 else f"{at + 1}: {one}" for at, one in enumerate(short)]
