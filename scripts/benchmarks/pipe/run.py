"""Selects the rows of the Pipe mode benchmark and runs them on two cores."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping

from benchmarks.pipe import cutting, dealing, decoding, loading
from benchmarks.pipe.comparing import FULL, HEAD, QUICK, Row, Scale

PARTS: Mapping[str, Callable[[Scale], Iterator[Row]]] = {
    "cutting": cutting.measure,
    "dealing": dealing.measure,
    "decoding": decoding.measure,
    "loading": loading.measure,
}


def main(parts: list[str] | None = None, *, quick: bool = False) -> None:
    """Measure on two cores, and print a table in Markdown.

    Args:
        parts: names of `PARTS`; all of them if empty.
        quick: use minimal amounts, just to check that the script works.
    """
    loading.use_two_cores()
    scale = QUICK if quick else FULL
    print(
        f"{platform.machine()}, {loading.CORES} cores, load {os.getloadavg()[0]:.1f}, {scale.rounds} rounds\n\n{HEAD}"
    )
    for name in parts or PARTS:
        for row in PARTS[name](scale):
            print(row, flush=True)
