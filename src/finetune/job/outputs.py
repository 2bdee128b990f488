"""Output files other than the model: metrics, predictions, and the list of bad records."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.data.labels import LabelMap
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.predict import EvaluationResult
from finetune.evaluation.thresholds import ChosenThresholds
from finetune.job.loaders import Loaders
from finetune.models.backbone import Backbone
from finetune.monitoring.score import score_name, score_of
from finetune.runtime.atomic_files import whole_text_file, write_whole
from finetune.strategies.plan import Plan
from finetune.training.state import TrainingState

logger = logging.getLogger(__name__)

MOST_PROBABILITIES = 200
"""Maximum number of classes for which the table of predictions has a column per class."""
LIKELIEST = 10
"""Number of most likely classes listed if there are more classes than that."""
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""Start of a cell that a spreadsheet may read as a formula."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def metrics_of(evaluated: EvaluationResult, labels: LabelMap, top_k: int | None) -> dict[str, object]:
    """All metrics of one part, as JSON values."""
    predictions = evaluated.predictions
    metrics = classification_metrics(
        predictions.targets, predictions.probabilities, labels.names, multi_label=labels.multi_label, top_k=top_k
    )
    return {"loss": predictions.loss, **metrics}


def job_summary(
    backbone: Backbone, plan: Plan, strategy: str, state: TrainingState | None, *, finished: bool
) -> dict[str, object]:
    """Summary of the job as JSON values: parameters, epochs, steps, and the metrics of every epoch."""
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    learning = sum(sizes[n] for group in backbone.layer_groups() if group.name in plan.rates for n in group.parameters)
    summary: dict[str, object] = {
        "strategy": strategy,
        "model_name": backbone.name,
        "weights": backbone.weights.source,
        "kept_head": backbone.weights.kept_head,
        "parameters": sum(sizes.values()),
        "trainable_parameters": learning,
        "finished": finished,
    }
    if state is not None:
        summary |= {
            "epochs": state.progress.epoch,
            "steps": state.progress.step,
            "stopped_early": state.progress.stopped_early,
            "best_epoch": state.best.epoch + 1 if state.best.epoch >= 0 else None,
            **exported_weights(state),
            "history": state.history.rows,
        }
    return summary


def exported_weights(state: TrainingState) -> dict[str, object]:
    """Origin of the exported weights as JSON values: `exported_weights` in words, and `exported_epoch`, counted from 1.

    The epoch is `None` if the job was stopped within one.
    """
    if state.best.weights:
        return {"exported_weights": "best epoch", "exported_epoch": state.best.epoch + 1}
    if state.progress.step_in_epoch:
        return {"exported_weights": "last step", "exported_epoch": None}
    return {"exported_weights": "last epoch", "exported_epoch": state.progress.epoch}


def exported_line(state: TrainingState) -> str:
    """One log line about the exported weights, with the best epoch if it is a different one."""
    progress, best, rows = state.progress, state.best, state.history.rows
    if best.weights:
        return f"Exported weights: epoch {best.epoch + 1} of {progress.epoch}, the best on validation."
    if progress.step_in_epoch:
        return f"Exported weights: those of step {progress.step}, within epoch {progress.epoch + 1}; not evaluated."
    line = f"Exported weights: epoch {progress.epoch} of {progress.epoch}, the last."
    if best.epoch in (-1, progress.epoch - 1):
        return line
    what = "micro F1" if score_name(rows[-1], "validation") == "micro_f1" else "accuracy"
    return (
        f"{line} Its {what} on validation is {score_of(rows[-1], 'validation'):.4f}; the best is {best.score:.4f}, of"
        f" epoch {best.epoch + 1}: early_stopping_patience exports the best epoch."
    )


def known_metrics(state: TrainingState | None) -> dict[str, dict[str, object]]:
    """Metrics of the exported weights already computed in training: for a stopped job that exports its best epoch."""
    if state is None or not state.best.weights:
        return {}
    known: dict[str, object] = {"loss": state.best.loss, "accuracy": state.best.accuracy}
    if score_name(state.history.rows[state.best.epoch], "validation") == "micro_f1":
        known["micro"] = {"f1": state.best.score}
    return {"validation": known}


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions by part, and the decision thresholds, if any."""

    evaluated: Mapping[str, EvaluationResult]
    decision: ChosenThresholds | None = None


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Write `metrics.json`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def write_predictions(folder: Path, answers: Answers) -> None:
    """Write `<part>_predictions.csv` for every evaluated part.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in answers.evaluated.items():
        _write_predictions(folder / f"{name}_predictions.csv", one, answers.decision)


def write_bad_records(folder: Path, loaders: Loaders) -> None:
    """Write `bad_records.json` if records were left out.

    Raises:
        OSError: the folder cannot be written.
    """
    bad = {channel: listing for channel, ledger in loaders.bad_records.items() if (listing := ledger.listing())}
    if bad:
        count = sum(len(found) for found in bad.values())
        logger.warning("Left out %d bad records, listed in bad_records.json", count)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "bad_records.json", json.dumps(bad, indent=2, default=str) + "\n")


def _write_predictions(path: Path, one: EvaluationResult, decision: ChosenThresholds | None) -> None:
    predictions, labels = one.predictions, one.batches.label_map
    limits = np.array(decision.thresholds if decision else [0.5] * len(labels))
    many = len(labels) > MOST_PROBABILITIES
    columns = [f"probability:{name}" for name in labels.names]
    if many:
        columns = [f"{what}:top_{rank}" for rank in range(1, LIKELIEST + 1) for what in ("label", "probability")]
    with whole_text_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["record", "label", "predicted_label", *columns])
        rows = zip(predictions.positions, predictions.targets, predictions.probabilities, strict=True)
        for position, target, row in rows:
            above = row - limits
            if labels.multi_label:
                truth, chosen = _positive(labels.names, target - 0.5), _positive(labels.names, above)
            else:
                truth, chosen = [labels.names[int(target)]], [labels.names[int(above.argmax())]]
            texts = [one.batches.key(int(position)), "|".join(truth), "|".join(chosen)]
            numbers = _likeliest(labels.names, row) if many else [f"{value:.6f}" for value in row]
            writer.writerow([*map(plain_cell, texts), *numbers])


def _likeliest(names: Sequence[str], row: NDArray[np.floating]) -> list[str]:
    """Labels and probabilities of the most likely classes, alternating, the most likely first."""
    top = np.argpartition(-row, LIKELIEST)[:LIKELIEST]
    ordered = top[np.lexsort((top, -row[top]))]
    return [cell for at in ordered.tolist() for cell in (plain_cell(names[at]), f"{row[at]:.6f}")]


def plain_cell(text: str) -> str:
    """Prefix the text with an apostrophe if a spreadsheet would read it as a formula.

    This applies to texts that start with `=`, `+`, `-`, `@`, a tab or a line end and are not numbers; apostrophes in
    front of these count as part of the start. To recover the text, drop the first character of cells that match
    `FORMULA` and start with an apostrophe.
    """
    if not FORMULA.match(text) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


def _positive(names: Sequence[str], values: NDArray[np.floating]) -> list[str]:
    return [names[at] for at in np.flatnonzero(values > 0).tolist()]
