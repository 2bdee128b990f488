"""Time from the start of the process to the end of the first step, compared with the Trainer."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.scale import Scale
from benchmarks.sides import trainer_job
from benchmarks.table import begin, middle, ratio, row, say
from benchmarks.turns import by_turns
from benchmarks.work import ALL, Work

# A number of characters that nearly all texts have: otherwise the first step of the side that groups texts by length
# would have the longest texts, and the result would not be the start-up time.
_TEXT = 60


def measure(scale: Scale) -> None:
    """Print a row for images and one for texts."""
    begin("Start to the first step", ("model, trainable layers", "ours, s", "Trainer, s", "Trainer / ours"))
    two_batches = replace(scale, learning_images=2 * scale.batch, texts=2 * scale.batch, longest_text=_TEXT)
    with tempfile.TemporaryDirectory(prefix="benchmark-start-") as folder:
        for work in two_batches.both(Path(folder), scale.recipe(ALL, 1)):
            row((work.name, *_starts(work, scale.starts)))
    say(
        f"\nMedians of {scale.starts} starts, interleaved in slices of half a second; two batches of"
        f" {scale.batch}, texts of at most {_TEXT}"
        " characters, files in the page cache."
    )


def _starts(work: Work, count: int) -> tuple[str, str, str]:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(count):
        by_turns(
            lambda: ours.append(work.run_ours().first_step),
            lambda: theirs.append(trainer_job(work.theirs).first_step),
        )
    return middle(ours), middle(theirs), ratio(theirs, ours)
