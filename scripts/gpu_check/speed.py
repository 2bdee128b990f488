"""Compares the training speed of jobs with transformers' Trainer, timm's loop and a loop on resident data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.sides import EPOCH_DONE, FIRST_STEP, RATE, TRAINED, TrainerSettings, python
from benchmarks.watched_process import Watched
from benchmarks.work import ALL, HEAD, LAST_LAYERS
from gpu_check.exact_jobs import STRATEGIES
from gpu_check.jobs import EPOCH_METRICS, JobRun, new_job, run_job
from gpu_check.requirements import missing
from gpu_check.results import NEEDS_GPU, Results, Table
from gpu_check.scale import Scale
from gpu_check.tasks import IMAGE_MODEL, Task, image_task, text_task

TABLE = Table(
    "Speed of training",
    "Records per second from the end of the first step to the end of the last epoch, and in the first epoch and"
    " the later ones. All sides have the same records, trainable layers, batch size and precision (bf16), no"
    " evaluation, and wait for the GPU before they read the clock. *Ours*: a whole job, which reads files, and"
    " caches features of frozen layers or decoded images in the first epoch; as it computes features ahead, in"
    " *ours, with the first step* the clock starts at the plan, before any record is read. *Trainer*:"
    " transformers' Trainer with its default data loading, in the training process. *timm*: its loader with 4"
    " processes, augmentation, model and optimizer. *Bare loop*: a PyTorch loop on decoded or tokenized data that"
    " is already on the device, by CUDA events. Images have 500 x 375 pixels. *Peak GPU memory* is what PyTorch"
    " allocated on the device in the whole run.",
    (
        "model, trainable layers",
        "side",
        "records/s",
        "first epoch",
        "later epochs",
        "ours / side",
        "peak GPU memory, MiB",
    ),
)
_OUR_STRATEGY = {HEAD: "feature_extraction", LAST_LAYERS: "partial", ALL: "full"}
_LEARNING_RATE = 1e-4


@dataclass(frozen=True, slots=True)
class Speed:
    """Records per second and peak GPU memory of a run; `None` where not measured."""

    mean: float
    first: float | None
    later: float | None
    peak_mib: float | None


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add a row for each side of each comparison."""
    makers = {"images": (image_task, scale.images), "texts": (text_task, scale.texts)}
    tasks = [
        make(folder / kind, count, scale) for kind, (make, count) in makers.items() if kind in scale.compared_kinds
    ]
    for learns in scale.layers_trained:
        for task in tasks:
            ours: float | None = None
            for number, (side, measure) in enumerate(_sides(task, learns).items()):
                label = f"{task.name}, {learns}"
                try:
                    speed = measure(task, learns, scale, folder / f"{task.kind}-{learns.replace(' ', '-')}-{number}")
                except Exception as error:  # noqa: BLE001 - the other sides are independent
                    results.add_error(TABLE, f"{label}, {side}", error)
                    continue
                ours = speed.mean if side == "ours" else ours
                results.add(TABLE, label, side, *_cells(speed, ours))


def _cells(speed: Speed, ours: float | None) -> tuple[str, ...]:
    rates = (speed.mean, speed.first, speed.later)
    memory = NEEDS_GPU if speed.peak_mib is None else f"{speed.peak_mib:,.0f}"
    ratio = "unknown" if ours is None else f"{ours / speed.mean:.2f}"
    return (*("not measured" if rate is None else f"{rate:,.0f}" for rate in rates), ratio, memory)


Measure = Callable[[Task, str, Scale, Path], Speed]


def _sides(task: Task, learns: str) -> Mapping[str, Measure]:
    sides: dict[str, Measure] = {"ours": _ours, "ours, with the first step": _ours_from_plan, "Trainer": _trainer}
    if task.kind == "images" and learns == ALL and not missing({"timm": "timm"}):
        sides["timm"] = _timm
    return {**sides, "bare loop": _bare_loop}


def _ours(task: Task, learns: str, scale: Scale, folder: Path) -> Speed:
    run = _run_ours(task, learns, scale, folder)
    return _from_times(task.count, scale.batch, run.times(FIRST_STEP)[0], run.times(EPOCH_METRICS), run.peak_mib)


def _ours_from_plan(task: Task, learns: str, scale: Scale, folder: Path) -> Speed:
    run = _run_ours(task, learns, scale, folder)
    return _from_times(task.count, 0, run.times("Plan")[0], run.times(EPOCH_METRICS), run.peak_mib)


def _run_ours(task: Task, learns: str, scale: Scale, folder: Path) -> JobRun:
    options = {
        **STRATEGIES[_OUR_STRATEGY[learns]],
        "epochs": str(scale.epochs),
        "batch_size": str(scale.batch),
        "learning_rate": str(_LEARNING_RATE),
        "precision": "bf16",
    }
    if task.kind == "texts" and learns == LAST_LAYERS:
        options["unfrozen_groups"] = "2"
    return run_job(new_job(folder, task, options))


def _trainer(task: Task, learns: str, scale: Scale, folder: Path) -> Speed:
    watched = _run_side(f"benchmarks.trainer_{task.kind}", task, learns, scale, folder)
    epochs = [when for when, text in watched.output if text.startswith(EPOCH_DONE)]
    return _from_times(task.count, scale.batch, watched.line(FIRST_STEP)[0], epochs, _peak(watched))


def _timm(task: Task, learns: str, scale: Scale, folder: Path) -> Speed:
    return _from_loop(_run_side("benchmarks.timm_loop", task, learns, scale, folder))


def _bare_loop(task: Task, learns: str, scale: Scale, folder: Path) -> Speed:
    return _from_loop(_run_side("benchmarks.bare_loop", task, learns, scale, folder))


def _run_side(module: str, task: Task, learns: str, scale: Scale, folder: Path) -> Watched:
    folder.mkdir()
    settings = TrainerSettings(
        kind=task.kind,
        train=str(task.train if task.kind == "images" else task.train / "texts.csv"),
        model=IMAGE_MODEL if task.kind == "images" else str(task.model),
        weights=str(task.weights or ""),
        trainable_layers=learns,
        epochs=scale.epochs,
        batch=scale.batch,
        rate=_LEARNING_RATE,
        output=str(folder),
        precision="bf16",
        bf16=True,
    )
    return python("gpu_check.side", module, json.dumps(asdict(settings)))


def _from_times(count: int, batch: int, first_step: float, epochs: list[float], peak: float | None) -> Speed:
    """From the times of the end of the first step of `batch` records, and of the end of each epoch."""
    after_first = count - min(batch, count)
    mean = (count * len(epochs) - min(batch, count)) / (epochs[-1] - first_step)
    first = after_first / (epochs[0] - first_step) if after_first else None
    later = [count / (end - start) for start, end in itertools.pairwise(epochs)]
    return Speed(mean, first, len(later) / sum(1 / rate for rate in later) if later else None, peak)


def _from_loop(watched: Watched) -> Speed:
    """From the lines that the loops of `benchmarks` print."""
    if any(text.startswith(RATE) for _, text in watched.output):
        return Speed(float(watched.line(RATE)[1].split()[0]), None, None, _peak(watched))
    done, records = watched.line(TRAINED)
    return Speed(int(records.split()[0]) / (done - watched.line(FIRST_STEP)[0]), None, None, _peak(watched))


def _peak(watched: Watched) -> float | None:
    from gpu_check.side import PEAK

    values = [float(text.removeprefix(PEAK)) for _, text in watched.output if text.startswith(PEAK)]
    return values[0] if values else None
