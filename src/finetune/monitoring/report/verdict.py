"""Verdict of the report on the model's quality with objections, from `report.json` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from finetune.monitoring.report.markup import counted, percent
from finetune.monitoring.rules.symptoms import never_recognized, worse_than_guess
from finetune.monitoring.score import score_name, score_of

_STRONG_IMBALANCE = 10
"""Ratio of training records of two classes above which the verdict is never good."""
_MOST_NAMED = 3
_LONGEST_NAME = 60

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


def judged(report: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """Return the part used to judge the model: test if available, otherwise validation."""
    for part in ("test", "validation", "train"):
        if part in report["parts"]:
            return part, report["parts"][part]
    return "", None


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Judge the model by its evaluation, class balance of the training records, leakage and rule findings.

    The verdict does not depend on the enabled rules.
    """
    part, metrics = judged(report)
    if report.get("failure"):
        return Verdict("bad", "The job failed", (f"There is no model: {report['failure']}",))
    if metrics is None:
        return Verdict("warn", "Not evaluated", _unevaluated(report))
    objections = [*_to_score(metrics), *_to_classes(part, metrics), *_to_data(part, report)]
    findings = [one["rule"] for one in report["findings"] if not one.get("resolved")]
    if findings and not objections:
        said = f"The rules found {counted(len(findings), 'problem')}: {', '.join(findings)}."
        objections.append(_Objection("warn", _headline(part, metrics), said))
    quality = quality_sentence(part, metrics)
    if not objections:
        return Verdict("good", _headline(part, metrics), (quality,))
    worst = next((one for one in objections if one.kind == "bad"), objections[0])
    return Verdict(worst.kind, worst.headline, (quality, *(one.reason for one in objections if one.reason)))


def _unevaluated(report: Mapping[str, Any]) -> tuple[str, ...]:
    if not report["job"].get("finished", False):
        return ("The job stopped before its evaluation; the exported model is the partially trained one.",)
    said = "No records were held out. Give a channel test or validation, or a validation_fraction above 0."
    if not report["history"]:
        return (said,)
    last = report["history"][-1]
    what = "F1" if score_name(last, "train") == "micro_f1" else "Accuracy"
    return (said, f"{what} on the training records is {percent(score_of(last, 'train'))}, which says little.")


def quality_sentence(part: str, metrics: Mapping[str, Any]) -> str:
    """Return a sentence with the score, its uncertainty and the constant baseline."""
    records = counted(metrics["records"], "record")
    if "micro" in metrics:
        return (
            f"F1 over all labels of {records} of {part} is {percent(metrics['micro']['f1'])}; the best constant answer"
            f" would give {percent(metrics['majority_baseline_micro_f1'])}. The mean F1 of the classes is"
            f" {percent(metrics['macro']['f1'])}, the mean average precision {percent(metrics['average_precision'])}."
            f" {percent(metrics['accuracy'])} of the records have exactly the right labels."
        )
    low, high = wilson(metrics["accuracy"], metrics["records"])
    return (
        f"{percent(metrics['accuracy'])} of {records} of {part} are right (95% interval {percent(low, 0)} to"
        f" {percent(high, 0)}); always naming the most frequent class would give"
        f" {percent(metrics['majority_baseline_accuracy'])}."
    )


def wilson(share: float, records: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval (1927), which stays within [0, 1] for few records."""
    z, n = 1.96, max(1, records)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _headline(part: str, metrics: Mapping[str, Any]) -> str:
    if "micro" in metrics:
        return f"F1 {percent(metrics['micro']['f1'])} on {part}"
    return f"{percent(metrics['accuracy'])} right on {part}"


def _to_score(metrics: Mapping[str, Any]) -> list[_Objection]:
    guess = worse_than_guess(metrics)
    if guess is not None:
        compared = "Worse than" if guess.score < guess.baseline else "No better than"
        return [_Objection("bad", f"{compared} always answering {_named(guess.answer)}")]
    if "micro" in metrics or metrics["majority_class"] is None or metrics["accuracy"] == 1.0:
        return []
    if wilson(metrics["accuracy"], metrics["records"])[0] > metrics["majority_baseline_accuracy"]:
        return []
    few = f"{counted(metrics['records'], 'record')} cannot tell the model from a guess."
    return [_Objection("warn", f"Not clearly better than always answering {_named([metrics['majority_class']])}", few)]


def _to_classes(part: str, metrics: Mapping[str, Any]) -> list[_Objection]:
    evaluated = [row for row in metrics["per_class"] if row["support"]]
    found = []
    missed = never_recognized(metrics)
    if missed:
        headline = f"{len(missed):,} of {counted(len(evaluated), 'class', 'classes')} never recognized"
        found.append(_Objection("warn", headline, f"No record of {part} is recognized as {_named(missed)}."))
    if len(evaluated) == 1:
        said = f"Every record of {part} has the label {_named([str(evaluated[0]['label'])])}."
        found.append(_Objection("warn", "Evaluated on a single class", said))
    return found


def _to_data(part: str, report: Mapping[str, Any]) -> list[_Objection]:
    found = []
    if report["duplicates"]["leaks"]:
        said = f"Records of {part} or validation were in train, so the truth is lower."
        found.append(_Objection("warn", "Evaluated on training records", said))
    counts: Mapping[str, int] = report["training_counts"]
    if not counts or report["asked"]["effective"].get("class_weights") == "balanced":
        return found
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    said = f"There are {counts[most]:,} training records of {_cut(most)}, and {counts[least]:,} of {_cut(least)}."
    if not counts[least]:
        found.append(_Objection("warn", f"No training record of {_named([least])}", said))
    elif counts[most] > _STRONG_IMBALANCE * counts[least]:
        times = f"{counts[most] / counts[least]:.0f} times the training records of {_named([least])}"
        found.append(_Objection("warn", f"{_named([most])} has {times}", said))
    return found


def _named(names: Sequence[str]) -> str:
    left, right = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"
    shown = ", ".join(f"{left}{_cut(name)}{right}" for name in names[:_MOST_NAMED])
    rest = len(names) - _MOST_NAMED
    return shown + (f" and {rest:,} more" if rest > 0 else "")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
