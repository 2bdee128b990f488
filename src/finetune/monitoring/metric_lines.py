"""Metric log lines for regular expressions, and the definitions of all metrics for tuners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from finetune.messages import MetricLine

DECIMALS = 6
_NUMBER = rf"(-?[0-9]+\.[0-9]{{{DECIMALS}}})"

Direction = Literal["Maximize", "Minimize"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric in the log.

    Attributes:
        name: Name in the log line and on the platform.
        direction: Direction of optimization for a tuner; `None` if it is not an objective.
        every_epoch: Whether it is logged in each epoch; the final line contains all metrics.
        multi_label: Whether only multi-label jobs have it.
    """

    name: str
    direction: Direction | None = None
    every_epoch: bool = False
    multi_label: bool = False

    @property
    def regex(self) -> str:
        """Regular expression that matches only the value of this metric."""
        return f"{self.name}={_NUMBER};"


_FINAL_METRICS: tuple[tuple[str, Direction], ...] = (
    ("average_precision", "Maximize"),
    ("macro_f1", "Maximize"),
    ("macro_precision", "Maximize"),
    ("macro_recall", "Maximize"),
    ("auc", "Maximize"),
    ("expected_calibration_error", "Minimize"),
)

METRICS: tuple[Metric, ...] = (
    Metric("train:loss", every_epoch=True),
    Metric("train:accuracy", every_epoch=True),
    Metric("validation:loss", "Minimize", every_epoch=True),
    Metric("validation:accuracy", "Maximize", every_epoch=True),
    Metric("train:micro_f1", every_epoch=True, multi_label=True),
    Metric("validation:micro_f1", "Maximize", every_epoch=True, multi_label=True),
    *(
        Metric(
            f"{part}:{name}",
            direction if part == "validation" else None,
            multi_label=name == "average_precision",
        )
        for part in ("validation", "test")
        for name, direction in _FINAL_METRICS
    ),
    Metric("test:loss"),
    Metric("test:accuracy"),
    Metric("test:micro_f1", multi_label=True),
)
"""All metrics that a job may log, in the order of the documentation."""


def metric_line(epoch: int, metrics: Mapping[str, float]) -> MetricLine:
    """Return the line of an epoch, such as `epoch=3; train:loss=0.123456; validation:accuracy=0.912345;`.

    The line depends only on the metrics, not on interruptions; times are logged separately.

    Args:
        epoch: Epoch from 0; printed from 1.
        metrics: Values by name, in printing order.
    """
    return MetricLine(f"epoch={epoch + 1}; {_format_metrics(metrics)}")


def solved_line(metrics: Mapping[str, float]) -> MetricLine:
    """Return the line of a solved head, with the metrics of an epoch."""
    return MetricLine(f"solved; {_format_metrics(metrics)}")


def final_line(metrics: Mapping[str, Mapping[str, object]]) -> MetricLine:
    """Return the final line with all metrics of the exported weights; empty without an evaluation.

    It follows the lines of the epochs, because a tuner takes the last value, which must be that of the exported model.

    Args:
        metrics: Metrics by part, as in `metrics.json`; undefined ones are left out.
    """
    values = final_values(metrics)
    return MetricLine(f"final; {_format_metrics(values)}" if values else "")


def final_values(metrics: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Return the values of the final line by name, such as `validation:accuracy`.

    Args:
        metrics: Metrics by part, as in `metrics.json`; undefined ones are left out.
    """
    values = {
        metric.name: _value(metrics.get(part, {}), name)
        for metric in METRICS
        for part, _, name in [metric.name.partition(":")]
    }
    return {name: value for name, value in values.items() if value is not None}


def _value(metrics: Mapping[str, object], name: str) -> float | None:
    value = metrics.get(name)
    average, _, rest = name.partition("_")
    if average in {"macro", "micro"}:
        averages = metrics.get(average)
        value = averages.get(rest) if isinstance(averages, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.{DECIMALS}f};" for name, value in metrics.items())
