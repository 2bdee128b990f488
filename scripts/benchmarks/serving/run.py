"""Selects the parts of the benchmark of the server, and runs them on two cores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.machine import keep_to_cores
from benchmarks.serving import overhead, overload, starting, throughput
from benchmarks.serving.models import image_model, text_model
from benchmarks.table import say

PARTS = ("requests", "overhead", "start")
_QUICK_IMAGES = 16


def main(parts: Sequence[str] | None = None, *, overload_minutes: float = 0.0, quick: bool = False) -> None:
    """Measure, and print a table per part.

    Args:
        parts: names of `PARTS`; all of them if empty.
        overload_minutes: run only the overload, for this time; 0 for the other parts.
        quick: use minimal amounts, just to check that the benchmark works.
    """
    keep_to_cores()
    with tempfile.TemporaryDirectory(prefix="benchmark-serving-") as name:
        folder = Path(name)
        images = image_model(folder / "images", _QUICK_IMAGES) if quick else image_model(folder / "images")
        if overload_minutes:
            overload.measure(images, overload_minutes)
            return
        models = (images,) if quick else (images, text_model(folder / "texts"))
        measurements: Mapping[str, Callable[[], None]] = {
            "requests": partial(throughput.measure, models, folder, quick=quick),
            "overhead": partial(overhead.measure, models, folder, quick=quick),
            "start": partial(starting.measure, models, quick=quick),
        }
        for part in parts or PARTS:
            measurements[part]()
            say()
