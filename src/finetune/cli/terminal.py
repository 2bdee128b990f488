"""Consoles and progress, plain where the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


def messages() -> Console:
    """Return a console that prints texts as they are: without markup, highlighting and line breaks of its own."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def output() -> Console:
    """Return the same for standard output."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


class Counter(Protocol):
    """Counts finished items."""

    def __call__(self) -> None:
        """Count one more item."""
        ...


@contextmanager
def progress(console: Console, verb: str, total: int | None) -> Iterator[Counter]:
    """Show a progress bar in a terminal, which disappears at the end, and elsewhere a line every 30 seconds.

    Args:
        console: console to print to.
        verb: what is being done, such as `Predicting`.
        total: number of items, if known.
    """
    if not console.is_terminal:
        yield _LineCounter(console, verb, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda: bar.advance(task)


class _LineCounter:
    """Counts items, and prints a line from time to time."""

    def __init__(self, console: Console, verb: str, total: int | None) -> None:
        self._console, self._verb, self._total = console, verb, total
        self._count = 0
        self._last_line = time.monotonic()

    def __call__(self) -> None:
        self._count += 1
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of_total = "" if self._total is None else f" of {self._total:,}"
            self._console.print(f"{self._verb}: {self._count:,}{of_total}")
