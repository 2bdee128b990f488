"""Inspects the first rows of a stream without consuming them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from finetune.data.framing.window import DamagedStream

ROWS, BYTES = 1000, 1 << 18
"""Maximum number of rows and bytes to buffer: a slow pipe must not delay the first batch for long."""

Row = TypeVar("Row", bound=Sized)


def look_ahead(rows: Iterator[Row]) -> tuple[list[Row], Iterator[Row]]:
    """Return the first rows, and an iterator over all rows; damage in the first rows is raised at its position."""
    seen: list[Row] = []
    room, damage = BYTES, None
    try:
        while room > 0 and len(seen) < ROWS and (row := next(rows, None)) is not None:
            seen.append(row)
            room -= len(row)
    except DamagedStream as error:
        damage = error
    return seen, _again(list(seen), rows, damage)


def _again(seen: Iterable[Row], rest: Iterator[Row], damage: DamagedStream | None) -> Iterator[Row]:
    yield from seen
    if damage is not None:
        raise damage
    yield from rest
