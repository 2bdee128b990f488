"""Verdict of the report on the model's quality with objections, from `report.json` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from finetune.config.rules import DEFAULTS
from finetune.monitoring.report.head import estimate_sentence
from finetune.monitoring.report.markup import number, percent, pluralize
from finetune.monitoring.report.records import compensation_for_imbalance
from finetune.monitoring.rules.chance import SIGNIFICANCE, chance_probability
from finetune.monitoring.rules.curves import exploded
from finetune.monitoring.rules.setup import guess_loss
from finetune.monitoring.rules.symptoms import worse_than_guess, zero_recall_classes
from finetune.monitoring.score import score_name, score_of

_MAX_IMBALANCE = 10
"""Ratio of training records of two classes above which the verdict is never good."""
_MAX_SHOWN_NAMES = 3
_MAX_NAME_LENGTH = 60

Kind = Literal["good", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Summary at the top of the report.

    Attributes:
        kind: `good` only without any objection.
        headline: One short statement.
        reasons: Sentences with numbers.
    """

    kind: Kind
    headline: str
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return {"kind": self.kind, "headline": self.headline, "reasons": list(self.reasons)}


class _Objection(NamedTuple):
    """An objection to the model."""

    kind: Kind
    headline: str
    reason: str | None = None


def evaluated_part(report: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """Return the part used to judge the model: test if available, otherwise validation."""
    for part in ("test", "validation", "train"):
        if part in report["parts"]:
            return part, report["parts"][part]
    return "", None


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Judge the model by its evaluation, class balance of the training records, leakage and rule findings.

    The verdict does not depend on the enabled rules.
    """
    part, metrics = evaluated_part(report)
    if report.get("failure"):
        return Verdict("bad", "The job failed", (f"No model was exported: {report['failure']}",))
    if metrics is None:
        return Verdict("warn", "Not evaluated", _unevaluated(report))
    objections = [
        *_score_objections(metrics),
        *_loss_objections(report, metrics),
        *_class_objections(part, metrics),
        *_data_objections(part, report),
    ]
    findings = [finding["rule"] for finding in report["findings"] if not finding.get("resolved")]
    if findings and not objections:
        text = f"Rules reported {pluralize(len(findings), 'problem')}: {', '.join(findings)}."
        objections.append(_Objection("warn", _headline(part, metrics), text))
    quality = quality_sentence(part, metrics)
    if not objections:
        return Verdict("good", _headline(part, metrics), (quality,))
    worst = next((objection for objection in objections if objection.kind == "bad"), objections[0])
    reasons = (objection.reason for objection in objections if objection.reason)
    return Verdict(worst.kind, worst.headline, (quality, *reasons))


def _unevaluated(report: Mapping[str, Any]) -> tuple[str, ...]:
    if not report["job"].get("finished", False):
        return ("The job was stopped before its evaluation; the exported model is partially trained.",)
    text = "No records were held out. Add a test or validation channel, or set validation_fraction above 0."
    if solution := report["job"].get("head_solver"):
        return text, estimate_sentence(solution)
    if not report["history"]:
        return (text,)
    last = report["history"][-1]
    metric = "F1" if score_name(last, "train") == "micro_f1" else "Accuracy"
    return (
        text,
        f"{metric} on the training records is {percent(score_of(last, 'train'))}, which does not measure quality.",
    )


def quality_sentence(part: str, metrics: Mapping[str, Any]) -> str:
    """Return a sentence with the score, its uncertainty and the constant baseline."""
    records = pluralize(metrics["records"], "record")
    if "micro" in metrics:
        return (
            f"Micro F1 on {records} of {part} is {percent(metrics['micro']['f1'])}; the best constant prediction has"
            f" {percent(metrics['majority_baseline_micro_f1'])}. Macro F1 is {percent(metrics['macro']['f1'])}, mean"
            f" average precision {percent(metrics['average_precision'])}. All labels are correct for"
            f" {percent(metrics['accuracy'])} of the records."
        )
    low, high = wilson_interval(metrics["accuracy"], metrics["records"])
    return (
        f"Accuracy on {records} of {part} is {percent(metrics['accuracy'])} (95% interval {percent(low, 0)} to"
        f" {percent(high, 0)}); always predicting the most frequent class gives"
        f" {percent(metrics['majority_baseline_accuracy'])}."
    )


def wilson_interval(share: float, records: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval (1927), which stays within [0, 1] for few records."""
    z, n = 1.96, max(1, records)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, center - margin), min(1.0, center + margin)


def _headline(part: str, metrics: Mapping[str, Any]) -> str:
    if "micro" in metrics:
        return f"F1 {percent(metrics['micro']['f1'])} on {part}"
    return f"Accuracy {percent(metrics['accuracy'])} on {part}"


def _score_objections(metrics: Mapping[str, Any]) -> list[_Objection]:
    prediction = worse_than_guess(metrics)
    if prediction is not None:
        compared = "Worse than" if prediction.score < prediction.baseline else "No better than"
        return [_Objection("bad", f"{compared} always predicting {_quoted(prediction.labels)}")]
    probability = chance_probability(metrics)
    if probability is None or probability <= SIGNIFICANCE:
        return []
    reason = (
        f"With {pluralize(metrics['records'], 'record')}, the difference is not statistically significant"
        f" (exact binomial test, p = {probability:.2g})."
    )
    majority = _quoted([metrics["majority_class"]])
    return [_Objection("warn", f"Not clearly better than always predicting {majority}", reason)]


def _loss_objections(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[_Objection]:
    """The validation loss of the last epoch, even if an earlier one is exported, unless that is a solved head."""
    rows: Sequence[Mapping[str, float]] = report["history"]
    if report["job"].get("exported_weights") == "solved head":
        return []
    guess = guess_loss(len(metrics["labels"]), multi_label="micro" in metrics)
    if not rows or not exploded(rows[-1], guess, DEFAULTS["ExplodingLoss"]["threshold"]):
        return []
    text = (
        f"The validation loss of epoch {len(rows)} is {number(rows[-1]['validation:loss'])}; predicting all classes"
        f" with equal probability has {number(guess)}. Lower learning_rate."
    )
    return [_Objection("warn", "The validation loss exploded", text)]


def _class_objections(part: str, metrics: Mapping[str, Any]) -> list[_Objection]:
    evaluated = [row for row in metrics["per_class"] if row["support"]]
    objections = []
    missed = zero_recall_classes(metrics)
    if missed:
        headline = f"{len(missed):,} of {pluralize(len(evaluated), 'class', 'classes')} never recognized"
        objections.append(
            _Objection("warn", headline, f"No record of {part} is correctly predicted as {_quoted(missed)}.")
        )
    if len(evaluated) == 1:
        text = f"Every record of {part} has the label {_quoted([str(evaluated[0]['label'])])}."
        objections.append(_Objection("warn", "Evaluated on a single class", text))
    return objections


def _data_objections(part: str, report: Mapping[str, Any]) -> list[_Objection]:
    objections = []
    if report["duplicates"]["leaks"]:
        parts = part if part == "validation" else f"{part} or validation"
        text = f"Records of {parts} are also in train, so the true score is lower."
        objections.append(_Objection("warn", "Evaluated on training records", text))
    counts: Mapping[str, int] = report["training_counts"]
    if not counts or compensation_for_imbalance(report["asked"]["effective"]):
        return objections
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    text = (
        f"There are {counts[largest]:,} training records of {_truncate(largest)},"
        f" and {counts[smallest]:,} of {_truncate(smallest)}."
    )
    if not counts[smallest]:
        objections.append(_Objection("warn", f"No training record of {_quoted([smallest])}", text))
    elif counts[largest] > _MAX_IMBALANCE * counts[smallest]:
        times = f"{counts[largest] / counts[smallest]:.0f} times as many training records as {_quoted([smallest])}"
        objections.append(_Objection("warn", f"{_quoted([largest])} has {times}", text))
    return objections


def _quoted(names: Sequence[str]) -> str:
    left, right = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"
    shown = ", ".join(f"{left}{_truncate(name)}{right}" for name in names[:_MAX_SHOWN_NAMES])
    rest = len(names) - _MAX_SHOWN_NAMES
    return shown + (f" and {rest:,} more" if rest > 0 else "")


def _truncate(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"
