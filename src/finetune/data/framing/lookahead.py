"""Inspects the first rows of a stream without consuming them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from finetune.data.framing.window import DamagedStream

MAX_ROWS, MAX_BYTES = 1000, 1 << 18
"""Maximum number of rows and bytes to buffer: a slow pipe must not delay the first batch for long."""

Row = TypeVar("Row", bound=Sized)


def look_ahead(rows: Iterator[Row]) -> tuple[list[Row], Iterator[Row]]:
    """Return the first rows, and an iterator over all rows; damage in the first rows is raised at its position."""
    buffered: list[Row] = []
    budget, error = MAX_BYTES, None
    try:
        while budget > 0 and len(buffered) < MAX_ROWS and (row := next(rows, None)) is not None:
            buffered.append(row)
            budget -= len(row)
    except DamagedStream as damage:
        error = damage
    return buffered, _replay(list(buffered), rows, error)


def _replay(buffered: Iterable[Row], remaining: Iterator[Row], error: DamagedStream | None) -> Iterator[Row]:
    yield from buffered
    if error is not None:
        raise error
    yield from remaining
