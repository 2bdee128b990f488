"""Output files other than the model: metrics, predictions, bad records, and the report."""

from __future__ import annotations

import csv
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import finetune
from finetune.config.hyperparameters import JobSpec
from finetune.config.rules import parse_rules
from finetune.data.readers.image_folder import other_files_of
from finetune.evaluation.data_checks import check_duplicates, most_confident_mistakes
from finetune.evaluation.predict import EvaluationResult
from finetune.job.data.inputs import class_counts, training_counts
from finetune.job.data.loaders import Loaders
from finetune.job.plan_summary import group_summaries, unused_notes
from finetune.job.prepare import PreparedJob
from finetune.models.backbone import Backbone
from finetune.monitoring.json_numbers import finite
from finetune.monitoring.report import page, verdict
from finetune.monitoring.score import describe_epoch
from finetune.monitoring.spreadsheets import plain_cell
from finetune.runtime.atomic_files import atomic_text_file, write_text_atomically
from finetune.strategies.plan import Plan
from finetune.tasks.task import Task
from finetune.tasks.thresholds import ChosenThresholds
from finetune.training.optim import Schedule
from finetune.training.saved_state.run_history import RunHistory, process_age
from finetune.training.saved_state.state import TrainingState

logger = logging.getLogger(__name__)

MAX_PROBABILITY_COLUMNS = 200
"""Maximum number of classes for which the table of predictions has a column per class."""
TOP_CLASSES = 10
"""Number of most likely classes listed if there are more classes than that."""
_MAX_CURVE_POINTS = 120
_LIBRARIES = ("torch", "torchvision", "transformers", "numpy", "pillow")


def job_summary(
    backbone: Backbone, plan: Plan, strategy: str, state: TrainingState | None, *, finished: bool
) -> dict[str, object]:
    """Summary of the job as JSON values: parameters, epochs, steps, and the metrics of every epoch."""
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    trainable = sum(
        sizes[n] for group in backbone.layer_groups() if group.name in plan.learning_rates for n in group.parameters
    )
    summary: dict[str, object] = {
        "strategy": strategy,
        "model_name": backbone.name,
        "weights": backbone.weights.source,
        "kept_head": backbone.weights.kept_head,
        "parameters": sum(sizes.values()),
        "trainable_parameters": trainable,
        "finished": finished,
    }
    if state is not None:
        summary |= {
            "epochs": state.progress.epoch,
            "steps": state.progress.step,
            "stopped_early": state.progress.stopped_early,
            "best_epoch": state.best.epoch + 1 if state.best.epoch >= 0 else None,
            "best_metric": state.best.metric if state.best.epoch >= 0 else None,
            **exported_weights(state),
            "history": state.history.rows,
        }
        if state.history.averages:
            summary["averages"] = state.history.averages
        if state.history.solution is not None:
            summary["head_solver"] = {"name": "lbfgs", **state.history.solution}
    return summary


def exported_weights(state: TrainingState) -> dict[str, object]:
    """Origin of the exported weights as JSON values: `exported_weights` in words, and `exported_epoch`, counted from 1.

    The epoch is `None` if the job was stopped within one.
    """
    if state.exports_solved_head:
        return {"exported_weights": "solved head", "exported_epoch": None}
    if state.best.average:
        return {"exported_weights": state.best.average, "exported_epoch": None}
    if state.best.weights:
        return {"exported_weights": "best epoch", "exported_epoch": state.best.epoch + 1}
    if state.progress.step_in_epoch:
        return {"exported_weights": "last step", "exported_epoch": None}
    return {"exported_weights": "last epoch", "exported_epoch": state.progress.epoch}


def exported_line(state: TrainingState) -> str:
    """One log line about the exported weights, with their validation metrics and those of the last epoch."""
    progress, best, rows = state.progress, state.best, state.history.rows
    if state.exports_solved_head or best.average:
        return _exported_line_of_auto(state)
    if best.weights:
        line = f"Exported: epoch {best.epoch + 1} of {len(rows)} by validation"
        line = f"{line} {describe_epoch(rows[best.epoch], best.metric)}"
        if best.epoch == len(rows) - 1:
            return f"{line}; it is the last epoch."
        return f"{line}; epoch {len(rows)}, the last, has {describe_epoch(rows[-1], best.metric)}."
    if progress.step_in_epoch:
        return f"Exported: step {progress.step}, within epoch {progress.epoch + 1}; not evaluated."
    line = f"Exported: epoch {progress.epoch} of {progress.epoch}, the last"
    if best.epoch in (-1, progress.epoch - 1):
        return f"{line}."
    return (
        f"{line}, with validation {describe_epoch(rows[-1], best.metric)}; the best is epoch {best.epoch + 1} with"
        f" {describe_epoch(rows[best.epoch], best.metric)} (best_metric)."
    )


def _exported_line_of_auto(state: TrainingState) -> str:
    """The line for a solved head, or an average with one."""
    best, rows, solution = state.best, state.history.rows, state.history.solution or {}
    if best.average:
        metrics = describe_epoch(state.history.averages[best.average], best.metric)
        solved = describe_epoch(rows[0], best.metric)
        return f"Exported: {best.average}, with validation {metrics}; the solved head has {solved}."
    line = f"Exported weights: the head solved with strength={solution['strength']:.4f}"
    if not rows:
        return f"{line}; not evaluated."
    if len(rows) == 1:
        return f"{line}."
    return f"{line}, with validation {describe_epoch(rows[0], best.metric)}; no later weights are clearly better."


def metrics_of_best_epoch(state: TrainingState | None) -> dict[str, dict[str, object]]:
    """Metrics of the exported weights already computed in training: for a stopped job that exports its best epoch."""
    if state is None or not state.best.weights:
        return {}
    best = state.best
    row = state.history.averages[best.average] if best.average else state.history.rows[best.epoch]
    values = {name.partition(":"): value for name, value in row.items()}
    metrics: dict[str, object] = {name: value for (part, _, name), value in values.items() if part == "validation"}
    for average in ("macro", "micro"):
        if f"{average}_f1" in metrics:
            metrics[average] = {"f1": metrics.pop(f"{average}_f1")}
    return {"validation": metrics}


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Write `metrics.json`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def write_predictions(
    folder: Path, evaluated: Mapping[str, EvaluationResult], task: Task, decision: ChosenThresholds | None = None
) -> None:
    """Write `<part>_predictions.csv` for every evaluated part.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in evaluated.items():
        _write_predictions(folder / f"{name}_predictions.csv", result, task, decision)


def write_bad_records(folder: Path, loaders: Loaders) -> None:
    """Write `bad_records.json` if records were left out.

    Raises:
        OSError: the folder cannot be written.
    """
    bad = {channel: listing for channel, ledger in loaders.bad_records.items() if (listing := ledger.listing())}
    if bad:
        count = sum(len(listing) for listing in bad.values())
        logger.warning("Left out %d bad records, listed in bad_records.json", count)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / "bad_records.json", json.dumps(bad, indent=2, default=str) + "\n")


def _write_predictions(path: Path, result: EvaluationResult, task: Task, decision: ChosenThresholds | None) -> None:
    predictions, labels = result.predictions, result.batches.label_map
    thresholds = np.array(decision.thresholds if decision else [0.5] * len(labels))
    many = len(labels) > MAX_PROBABILITY_COLUMNS
    columns = [f"probability:{name}" for name in labels.names]
    if many:
        columns = [f"{column}:top_{rank}" for rank in range(1, TOP_CLASSES + 1) for column in ("label", "probability")]
    with atomic_text_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["record", "label", "predicted_label", *columns])
        rows = zip(predictions.positions, predictions.targets, predictions.probabilities, strict=True)
        for position, target, row in rows:
            truth, predicted = task.true_classes(target), task.predicted_classes(row, thresholds)
            texts = [result.batches.key(int(position)), "|".join(truth), "|".join(predicted)]
            numbers = _top_classes(labels.names, row) if many else [f"{value:.6f}" for value in row]
            writer.writerow([*map(plain_cell, texts), *numbers])


def _top_classes(names: Sequence[str], row: NDArray[np.floating]) -> list[str]:
    """Labels and probabilities of the most likely classes, alternating, the most likely first."""
    top = np.argpartition(-row, TOP_CLASSES)[:TOP_CLASSES]
    ordered = top[np.lexsort((top, -row[top]))]
    return [cell for index in ordered.tolist() for cell in (plain_cell(names[index]), f"{row[index]:.6f}")]


def write_report(folder: Path, report: dict[str, object]) -> None:
    """Write `report.json`, with a verdict, and `report.html` rendered from it.

    Raises:
        OSError: the folder cannot be written.
    """
    judgement = verdict(report)
    report["verdict"] = judgement.as_json()
    text = " ".join((f"{judgement.headline}.", *judgement.reasons))
    logger.log(logging.INFO if judgement.kind == "good" else logging.WARNING, "Verdict: %s", text)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "report.json", json.dumps(report, indent=1, default=str, allow_nan=False) + "\n")
    write_text_atomically(folder / "report.html", page(report))
    logger.info("The report is in %s", folder / "report.html")


def build_report(
    job: PreparedJob,
    metrics: Mapping[str, object],
    evaluated: Mapping[str, EvaluationResult],
    history: RunHistory,
    drift: Mapping[str, float],
    schedule: Schedule | None,
) -> dict[str, object]:
    """Content of the report, as JSON values.

    Args:
        job: the prepared job.
        metrics: content of `metrics.json`.
        evaluated: predictions by part.
        history: run history over all starts of the job.
        drift: relative change of the weights, by layer group.
        schedule: learning rate schedule; `None` if nothing was trained.
    """
    inputs, spec, parts = job.inputs, job.spec, job.inputs.parts()
    summary = metrics["job"]
    assert isinstance(summary, dict)  # noqa: S101  # made by `job_summary`
    judged = next((name for name in ("test", "validation", "train") if name in evaluated), None)
    no_mistakes: dict[str, object] = {"part": "", "of": 0, "count": 0, "records": []}
    report = {
        "title": f"{job.backbone.name} on {len(inputs.labels)} classes",
        "failure": metrics.get("failure"),
        "forgetting": metrics.get("forgetting"),
        "job": {name: value for name, value in summary.items() if name != "history"},
        "history": summary.get("history", []),
        "asked": {
            "hyperparameters": dict(job.request.files.hyperparameters),
            "notes": [*spec.notes, *unused_notes(job)],
            "effective": _effective(spec),
        },
        "plan": {"facts": _facts(job), "groups": _groups(job, drift)},
        "records": {name: len(part.indices) for name, part in parts.items()},
        "classes": {name: class_counts(part, inputs.labels) for name, part in parts.items()},
        "training_counts": training_counts(inputs) if spec.strategy.trains else {},
        "parts": {name: metrics for name, metrics in metrics.items() if name in evaluated},
        "wrong": most_confident_mistakes(judged, evaluated[judged], inputs.task) if judged else no_mistakes,
        "duplicates": check_duplicates(parts),
        "bad_records": {
            channel: listing for channel, bad in job.loaders.bad_records.items() if (listing := bad.listing())
        },
        "left_out_files": {
            part.reader.channel: files for part in parts.values() if (files := other_files_of(part.reader))
        },
        "rates": _learning_rate_curves(job.plan, schedule, summary.get("steps", 0)),
        "rules": list(parse_rules(spec.observe.rules)),
        "findings": metrics["findings"],
        "machine_findings": history.machine_findings,
        "time": _time(history, job, summary),
        "interruptions": history.as_json(),
        "cost": _cost(history, spec.observe.price_per_hour),
        "versions": _versions(),
    }
    return finite(report)


def _effective(spec: JobSpec) -> dict[str, object]:
    sections = (
        spec.data,
        spec.model,
        spec.strategy,
        spec.optimization,
        spec.recipes,
        spec.run,
        spec.distributed,
        spec.checkpoint,
        spec.features,
        spec.observe,
    )
    return {name: value for section in sections for name, value in section.model_dump().items()}


def _facts(job: PreparedJob) -> dict[str, str]:
    weights, spec = job.backbone.weights, job.spec
    return {
        "task": job.inputs.task.description(job.inputs.task_name),
        "network": f"{job.backbone.name}, {job.backbone.expects.describe()}",
        "weights": weights.summary,
        "strategy": f"{spec.strategy.name} ({spec.strategy_reason})" if spec.strategy_reason else spec.strategy.name,
        **_optimizer_facts(job),
        "device": f"{job.numerics.device}, {job.numerics.name}",
        "validation": "split off train"
        if job.inputs.split
        else "its own channel"
        if job.inputs.validation or "validation" in job.inputs.streams
        else "none",
    }


def _optimizer_facts(job: PreparedJob) -> dict[str, str]:
    optimization = job.spec.optimization
    if job.head_solver.solves:
        return {"head": job.head_solver.description}
    return {
        "optimizer": f"{optimization.optimizer}, {optimization.lr_schedule} schedule",
        "batch": f"{optimization.batch_size} x {optimization.gradient_accumulation_steps}",
    }


def _groups(job: PreparedJob, drift: Mapping[str, float]) -> list[dict[str, object]]:
    groups = group_summaries(job.backbone, job.plan, solves_head=job.head_solver.solves)
    return [{**asdict(group), "drift": drift.get(group.name)} for group in groups]


def _learning_rate_curves(plan: Plan, schedule: Schedule | None, steps: object) -> dict[str, object]:
    if schedule is None or not isinstance(steps, int) or not steps:
        return {"steps": [], "groups": {}}
    shown = sorted({round(index * (steps - 1) / (_MAX_CURVE_POINTS - 1)) for index in range(_MAX_CURVE_POINTS)})
    first = {name: phase.first_epoch for phase in reversed(plan.phases) for name in phase.trainable}
    curves = {
        name: [rate * schedule(step) if step >= schedule.begin_of(first[name]) else None for step in shown]
        for name, rate in plan.learning_rates.items()
    }
    return {"steps": shown, "groups": curves}


def _time(history: RunHistory, job: PreparedJob, summary: Mapping[str, object]) -> dict[str, object]:
    training = dict(history.parts)
    if job.world.size == 1:
        training.pop("exchange", None)
    total = max(history.run_seconds, process_age())
    # Reading checkpoints counts as part of the start.
    parts = {"start": history.start_seconds, **training}
    parts["rest"] = max(0.0, total - sum(parts.values()))
    busy = sum(value for name, value in training.items() if name not in {"evaluate", "save"})
    train = job.inputs.train
    epochs = summary.get("epochs", 0)
    done = len(train.indices) * epochs if train and isinstance(epochs, int) else 0
    return {"parts": parts, "records_per_second": done / busy if busy else None}


def _cost(history: RunHistory, price: float | None) -> dict[str, object]:
    total = max(history.run_seconds, process_age())
    return {
        "seconds": round(total, 1),
        "price_per_hour": price,
        "price": None if price is None else total / 3600 * price,
    }


def _versions() -> dict[str, str]:
    versions = {"finetune": finetune.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
