"""Effect of cached features on accuracy: the same job over several seeds, with and without the cache."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.image_task import write_images
from benchmarks.scale import Scale
from benchmarks.table import begin, row, say
from benchmarks.work import HEAD, LAST_LAYERS, Work, image_work, text_work

_EPOCHS = 4
_TOKENS = "64"


def measure(scale: Scale) -> None:
    """Print a row for each workload."""
    columns = (
        "model, trainable layers, records",
        "cached",
        "feature_cache=off",
        "difference of means",
        "standard error",
    )
    begin("Accuracy with and without cached features", columns)
    with tempfile.TemporaryDirectory(prefix="benchmark-seeds-") as folder:
        for work in _works(Path(folder), scale):
            pairs = [_pair(work, seed) for seed in range(scale.seeds)]
            differences = [first - second for first, second in pairs]
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            cached, off = zip(*pairs, strict=True)
            name = f"{work.name}, {work.records:,}"
            row((name, _summary(cached), _summary(off), f"{statistics.mean(differences):+.4f}", f"{error:.4f}"))
    say(
        f"\nMean (minimum to maximum) accuracy over {scale.seeds} seeds on held-out records, after {_EPOCHS} epochs;"
        f" texts of up to {_TOKENS} tokens. Each seed with cached features and with feature_cache=off, which"
        " augments every image in every epoch."
    )


def _works(folder: Path, scale: Scale) -> tuple[Work, ...]:
    task = write_images(folder / "images", scale.seed_records)
    texts = text_work(folder / "texts", scale.seed_records, scale.recipe(LAST_LAYERS, _EPOCHS), scale.longest_text)
    return (
        image_work(task, "resnet18", scale.recipe(HEAD, _EPOCHS)),
        image_work(task, "resnet18", scale.recipe(LAST_LAYERS, _EPOCHS)),
        replace(texts, ours={**texts.ours, "max_length": _TOKENS}),
    )


def _pair(work: Work, seed: int) -> tuple[float, float]:
    cached = work.accuracy(work.run_ours(seed=str(seed)).artifact)
    return cached, work.accuracy(work.run_ours(seed=str(seed), feature_cache="off").artifact)


def _summary(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.3f} to {max(values):.3f})"
