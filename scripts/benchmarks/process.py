"""Gains of jobs from their memory and thread settings, alone and next to other work.

The same jobs run in environments that override these settings (`finetune.runtime.memory`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.image_task import write_images
from benchmarks.scale import Scale
from benchmarks.table import begin, middle, ratio, row, say
from benchmarks.turns import by_turns
from benchmarks.work import ALL, HEAD, Work, image_work, text_work

_DEFAULTS = {"GLIBC_TUNABLES": "", "GOMP_SPINCOUNT": "300000"}
_DEFAULT = "default"
_ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    _DEFAULT: {},
    "glibc's memory defaults": {"GLIBC_TUNABLES": ""},
    "threads sleep immediately": {"OMP_WAIT_POLICY": "PASSIVE"},
    "threads spin for milliseconds": {"GOMP_SPINCOUNT": _DEFAULTS["GOMP_SPINCOUNT"]},
    "the libraries' defaults": _DEFAULTS,
}


def measure(scale: Scale) -> None:
    """Print a row for each job, alone and next to a process that keeps a core busy."""
    begin("Process settings", ("job", f"{_DEFAULT}, s", *(name for name in _ENVIRONMENTS if name != _DEFAULT)))
    with tempfile.TemporaryDirectory(prefix="benchmark-process-") as folder:
        for work in _works(Path(folder), scale):
            _measure(work, "alone", scale.repeats)
            with _busy():
                _measure(work, "next to one busy process", scale.repeats)
    say(f"\nRelative duration of jobs without each setting; medians of {scale.repeats}, by turns of half a second.")


def _measure(work: Work, company: str, repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in _ENVIRONMENTS}

    def run(name: str) -> None:
        seconds[name].append(work.elsewhere(name).run_ours(_ENVIRONMENTS[name]).seconds)

    for _ in range(repeats):
        by_turns(*(partial(run, name) for name in _ENVIRONMENTS))
    ours = seconds[_DEFAULT]
    ratios = (ratio(otherwise, ours) for name, otherwise in seconds.items() if name != _DEFAULT)
    row((f"{work.name}, {work.records:,}, {company}", middle(ours), *ratios))


def _works(folder: Path, scale: Scale) -> tuple[Work, ...]:
    small = write_images(folder / "images", scale.images)
    learning = write_images(folder / "learning", scale.learning_images)
    return (
        image_work(small, scale.models[0], scale.recipe(HEAD, scale.epochs[0], 32)),
        image_work(learning, scale.models[-1], scale.recipe(ALL, 1)),
        text_work(folder / "texts", scale.texts, scale.recipe(ALL, 1), scale.longest_text),
    )


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
