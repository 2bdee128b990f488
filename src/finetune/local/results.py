"""Results of a local job from the files that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.local.run_folder import RunFolder
from finetune.monitoring.report.verdict import evaluated_part, wilson_interval

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Score:
    """Score of the exported model.

    Attributes:
        part: records that were evaluated: `test` if available, otherwise `validation` or `train`.
        name: `accuracy`, or `micro F1` with `multi_label`.
        value: the score, in [0, 1].
        records: number of records.
        interval: 95% Wilson score interval of an accuracy.
    """

    part: str
    name: str
    value: float
    records: int
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """The score with its interval, such as `0.9130 (95% interval 0.86 to 0.95, 120 records of test)`."""
        interval = "" if self.interval is None else f"95% interval {self.interval[0]:.2f} to {self.interval[1]:.2f}, "
        return f"{self.value:.4f} ({interval}{self.records:,} records of {self.part})"


def score_of_run(run: RunFolder) -> Score | None:
    """Return the score of the exported model; `None` if it was not evaluated."""
    return score_of_metrics(run.metrics())


def score_of_metrics(metrics: Mapping[str, Any]) -> Score | None:
    """Return the score in `metrics.json`; `None` if there is none."""
    part, values = evaluated_part({"parts": metrics})
    if values is None or "records" not in values:
        return None
    if "micro" in values:
        return Score(part, "micro F1", values["micro"]["f1"], values["records"])
    return Score(
        part,
        "accuracy",
        values["accuracy"],
        values["records"],
        wilson_interval(values["accuracy"], values["records"]),
    )


def verdict_of_run(run: RunFolder) -> tuple[str, str] | None:
    """Return the kind and the headline of the report's verdict; `None` without a report."""
    judged = run.report_data().get("verdict")
    return (judged["kind"], judged["headline"]) if isinstance(judged, dict) else None


def cause_of_failure(run: RunFolder) -> str:
    """Return the cause of a failure without its traceback."""
    text = run.failure().partition(TRACEBACK)[0].strip()
    return text or f"The job ended without giving a reason; the end of {run.log} may contain it."
