"""Cost of training with trainable layers, compared with the Trainer and with a bare loop."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scale import Scale
from benchmarks.sides import Run, loop_rate, trainer_job
from benchmarks.table import begin, middle, ratio, row, say
from benchmarks.turns import by_turns
from benchmarks.work import ALL, LAST_LAYERS, Recipe, Work

_COLUMNS = (
    "model, trainable layers, records, epochs",
    "ours, s",
    "Trainer, s",
    "Trainer / ours",
    "accuracy: ours, Trainer",
    "ours, records/s",
    "bare loop, records/s",
    "ours / bare loop",
    "timm, records/s",
    "ours / timm",
    "peak MiB: ours, without cache, Trainer",
    "first step, s: ours, Trainer",
)


@dataclass(slots=True)
class _Turns:
    """Measurements for one workload, and one epoch of it without a cache; timm supports images only."""

    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)
    bare_rates: list[float] = field(default_factory=list)
    timm_rates: list[float] = field(default_factory=list)
    small: list[Run] = field(default_factory=list)


def measure_partial(scale: Scale) -> None:
    """Benchmark training of the last layers."""
    _measure("Partial", scale, scale.recipe(LAST_LAYERS, scale.partial_epochs))


def measure_full(scale: Scale) -> None:
    """Benchmark training of all layers."""
    _measure("Full", scale, scale.recipe(ALL, scale.full_epochs))


def _measure(title: str, scale: Scale, recipe: Recipe) -> None:
    begin(f"{title}, {scale.arithmetic}", _COLUMNS)
    with tempfile.TemporaryDirectory(prefix="benchmark-learning-") as folder:
        for work in scale.both(Path(folder), recipe):
            turns = _Turns()
            # First, because the artifact of our last job is scored.
            if scale.thorough:
                turns.small.append(work.run_ours(epochs="1", cache_size_gb="0"))
            for _ in range(scale.repeats):
                by_turns(*_sides(work, recipe, turns))
            _print_row(work, recipe, turns)
    say(
        f"\nBatches of {recipe.batch}, the same peak learning rate of pretrained layers on both sides, otherwise each"
        " side's defaults; both crop and flip images at random. MiniLM has its pretrained weights, ResNets have"
        f" random ones. No evaluation during training; accuracy on held-out records. Medians of {scale.repeats};"
        " sides run interleaved in slices of half a second, and ratios are those of interleaved pairs (minimum to"
        " maximum). 'Without cache': one epoch with cache_size_gb=0. Records per second exclude the first step."
    )


def _sides(work: Work, recipe: Recipe, turns: _Turns) -> list[Callable[[], None]]:
    """The sides of the comparison."""
    settings = work.theirs
    sides = [lambda: turns.ours.append(work.run_ours()), lambda: turns.theirs.append(trainer_job(settings))]
    if recipe.trainable_layers == ALL:
        sides.append(lambda: turns.bare_rates.append(loop_rate("bare_loop", settings)))
        if settings.kind == "images":
            sides.append(lambda: turns.timm_rates.append(loop_rate("timm_loop", settings)))
    return sides


def _print_row(work: Work, recipe: Recipe, turns: _Turns) -> None:
    ours, theirs = turns.ours, turns.theirs
    accuracies = [work.accuracy(runs[-1].artifact) for runs in (ours, theirs)]
    rates = [run.rate(work.records, recipe.batch) for run in ours]
    peaks = [statistics.median(run.peak_mib for run in runs) for runs in (ours, turns.small, theirs) if runs]
    bare, timm = turns.bare_rates, turns.timm_rates
    row(
        (
            f"{work.name}, {work.records:,}, {recipe.epochs}",
            middle([run.seconds for run in ours]),
            middle([run.seconds for run in theirs]),
            ratio([run.seconds for run in theirs], [run.seconds for run in ours]),
            ", ".join(f"{number:.3f}" for number in accuracies),
            middle(rates),
            middle(bare) if bare else "not run",
            ratio(rates, bare) if bare else "",
            middle(timm) if timm else "not run",
            ratio(rates, timm) if timm else "",
            ", ".join(f"{number:,.0f}" for number in peaks),
            ", ".join(middle([run.first_step for run in runs]) for runs in (ours, theirs)),
        )
    )
