"""Lines that a regular expression can read, and what every metric in them means to a tuner: declared once."""

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
    """A number that the log tells.

    Attributes:
        name: as it stands in the line, and as the platform shows it.
        direction: in which a tuner may move it; `None` for what is no objective.
        every_epoch: whether each epoch has a line with it; at the end all metrics are in one line.
        multi_label: whether only jobs with several labels per record have it.
    """

    name: str
    direction: Direction | None = None
    every_epoch: bool = False
    multi_label: bool = False

    @property
    def regex(self) -> str:
        """Finds its value, and no other metric's."""
        return f"{self.name}={_NUMBER};"


_AT_THE_END: tuple[tuple[str, Direction], ...] = (
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
        for name, direction in _AT_THE_END
    ),
    Metric("test:loss"),
    Metric("test:accuracy"),
    Metric("test:micro_f1", multi_label=True),
)
"""Every metric that a job may tell, in the order of the documentation."""


def metric_line(epoch: int, metrics: Mapping[str, float]) -> MetricLine:
    """The line of an epoch, such as `epoch=3; train:loss=0.123456; validation:accuracy=0.912345;`.

    The same metrics give the same line, whatever happened to the job meanwhile: times are told elsewhere.

    Args:
        epoch: counted from 0; printed from 1.
        metrics: by name, in the order in which they are printed.
    """
    return MetricLine(f"epoch={epoch + 1}; {_written(metrics)}")


def final_line(metrics: Mapping[str, Mapping[str, object]]) -> MetricLine:
    """The line at the end: every metric of the exported weights, by part; empty where nothing was evaluated.

    It comes after the lines of the epochs, so that a tuner, which takes the last value, judges the exported model.

    Args:
        metrics: by part, as in `metrics.json`; what is not defined is left out.
    """
    values: dict[str, float] = {}
    for metric in METRICS:
        part, _, name = metric.name.partition(":")
        value = _value(metrics.get(part, {}), name)
        if value is not None:
            values[metric.name] = value
    return MetricLine(f"final; {_written(values)}" if values else "")


def _value(metrics: Mapping[str, object], name: str) -> float | None:
    found = metrics.get(name)
    average, _, rest = name.partition("_")
    if average in {"macro", "micro"}:
        averages = metrics.get(average)
        found = averages.get(rest) if isinstance(averages, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _written(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.{DECIMALS}f};" for name, value in metrics.items())
