"""Cost of feature extraction over several epochs, compared with the Trainer and with a single bare pass."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.image_task import ImageTask, file_sizes, write_images
from benchmarks.scale import Scale
from benchmarks.sides import PASS_BEGINS, PASS_DONE, Run, python, trainer_job
from benchmarks.table import begin, middle, ratio, row, say, times
from benchmarks.turns import by_turns
from benchmarks.work import HEAD, Work, image_work

BATCH = 32
_COLUMNS = (
    "model, images, epochs",
    "ours, s",
    "Trainer, s",
    "Trainer / ours",
    "bare script, s",
    "ours / bare script",
    "its pass, s",
    "ours / pass",
    "accuracy: ours, Trainer",
    "peak MiB: ours, Trainer",
)


@dataclass(slots=True)
class _Turns:
    """Measurements for one model and one number of epochs.

    Attributes:
        scripts: seconds of the bare script that shared the machine with each of our runs.
        passes: the part of these spent in its pass.
    """

    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)
    scripts: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)


def measure(scale: Scale) -> None:
    """Print a row for each model and number of epochs, and one with many images, without the Trainer."""
    begin(f"Feature extraction, {scale.arithmetic}", _COLUMNS)
    with tempfile.TemporaryDirectory(prefix="benchmark-features-") as folder:
        task = write_images(Path(folder), scale.images, scale.seen_images)
        size = file_sizes(task.train.rglob("*.jpg"))
        for model in scale.models:
            _model(task, model, scale)
    if scale.many_images:
        with tempfile.TemporaryDirectory(prefix="benchmark-features-") as folder:
            task = write_images(Path(folder), scale.many_images)
            work = image_work(task, scale.models[0], scale.recipe(HEAD, scale.epochs[0], BATCH))
            _print_row(work, _run_interleaved(work, scale, with_trainer=False))
    say(
        f"\nImages of 500 x 375, {size} each; 224 pixels, batches of {BATCH}, random weights, no evaluation during"
        f" training; {scale.repeats} times {scale.turns} of ours and the bare script, interleaved in slices of half a"
        " second, then the Trainer. The bare script only imports torch, decodes and makes one pass; 'ours / bare"
        " script' is the median over interleaved pairs (minimum to maximum). 'Computed': extrapolated from the mean"
        " epoch of the row above."
    )


def _model(task: ImageTask, model: str, scale: Scale) -> None:
    first_run: Run | None = None
    for epochs in scale.epochs:
        work = image_work(task, model, scale.recipe(HEAD, epochs, BATCH))
        if first_run is None or scale.long:
            turns = _run_interleaved(work, scale, with_trainer=True)
            first_run = turns.theirs[0]
            _print_row(work, turns)
        else:
            turns = _run_interleaved(work, scale, with_trainer=False)
            turns.theirs.append(_longer(first_run, epochs))
            _print_row(work, turns, computed=True)


def _run_interleaved(work: Work, scale: Scale, *, with_trainer: bool) -> _Turns:
    turns = _Turns()
    for _ in range(scale.repeats):
        for _ in range(scale.turns):
            by_turns(lambda: turns.ours.append(work.run_ours()), lambda: _bare_script(turns, work))
        if with_trainer:
            turns.theirs.append(trainer_job(work.theirs))
    return turns


def _bare_script(turns: _Turns, work: Work) -> None:
    settings = work.theirs
    watched = python("benchmarks.bare_pass", settings.train, settings.model, settings.weights, settings.precision)
    turns.scripts.append(watched.seconds)
    turns.passes.append(watched.line(PASS_DONE)[0] - watched.line(PASS_BEGINS)[0])


def _longer(run: Run, epochs: int) -> Run:
    """The same for more epochs, each as long as the mean of those after the first."""
    each = (run.epochs[-1] - run.epochs[0]) / (len(run.epochs) - 1)
    return replace(run, seconds=run.seconds + each * (epochs - len(run.epochs)))


def _print_row(work: Work, turns: _Turns, *, computed: bool = False) -> None:
    ours, theirs = ([run.seconds for run in runs] for runs in (turns.ours, turns.theirs))
    # An extrapolated run has the artifact of the shorter one.
    scored = [turns.ours[-1], *(turns.theirs[-1:] if not computed else ())]
    peaks = [statistics.median(run.peak_mib for run in runs) for runs in (turns.ours, turns.theirs) if runs]
    row(
        (
            f"{work.theirs.model}, {work.records:,}, {work.theirs.epochs}",
            middle(ours),
            middle(theirs) + (" (computed)" if computed else "") if theirs else "not run",
            times(theirs, ours) if theirs else "",
            middle(turns.scripts),
            ratio(ours, turns.scripts),
            middle(turns.passes),
            ratio(ours, turns.passes),
            ", ".join(f"{work.accuracy(run.artifact):.3f}" for run in scored),
            ", ".join(f"{peak:,.0f}" for peak in peaks),
        )
    )
