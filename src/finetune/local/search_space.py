"""Ranges of hyperparameters to search, and the same search as a SageMaker tuning job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune.errors import UserError, did_you_mean
from finetune.monitoring.metric_lines import METRICS, Direction, Metric

_RANGE = re.compile(r"(?:(log|int|float):)?([^.,:]\S*?)\.\.(\S+)")
_FORMS = "LOW..HIGH, log:LOW..HIGH, int:LOW..HIGH or VALUE,VALUE,..."


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A range of numbers, searched on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """A range of integers, both ends included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """Values of any kind, as text."""

    values: tuple[str, ...]


SearchRange = FloatRange | IntegerRange | Choices


def parse_ranges(texts: Mapping[str, str]) -> dict[str, SearchRange]:
    """Parse the ranges by hyperparameter, such as `log:1e-5..1e-2`, `3..10` or `adamw,sgd`.

    Raises:
        UserError: there is no range, or one has another form.
    """
    if not texts:
        raise UserError("Nothing to search: add for example --search learning_rate=log:1e-5..1e-2.")
    return {name: _parse(name, text) for name, text in texts.items()}


def _parse(name: str, text: str) -> SearchRange:
    match = _RANGE.fullmatch(text)
    if match is None:
        values = tuple(dict.fromkeys(value.strip() for value in text.split(",")))
        if len(values) < 2 or not all(values):
            raise UserError(f"--search {name}={text}: expected {_FORMS}.")
        return Choices(values)
    kind, low, high = match.groups()
    try:
        has_integers = all(re.fullmatch(r"[+-]?\d+", end) for end in (low, high))
        if kind == "int" or (kind is None and has_integers):
            found: FloatRange | IntegerRange = IntegerRange(int(low), int(high))
        else:
            found = FloatRange(float(low), float(high), log=kind == "log")
    except ValueError as error:
        raise UserError(f"--search {name}={text}: {low!r} or {high!r} is not a number; expected {_FORMS}.") from error
    if not found.low < found.high or (found.log and found.low <= 0):
        reason = "must be positive" if found.low < found.high else "must be less than the high end"
        raise UserError(f"--search {name}={text}: the low end {reason}.")
    return found


def find_objective(name: str) -> tuple[Metric, Direction]:
    """Return the metric to optimize, and its direction.

    Raises:
        UserError: the metric is unknown, or not an objective.
    """
    objectives = {metric.name: metric for metric in METRICS if metric.direction is not None}
    if name not in objectives:
        near = did_you_mean(name, objectives)
        raise UserError(f"--metric {name} is no objective{near}; choose from {', '.join(objectives)}.")
    metric = objectives[name]
    assert metric.direction is not None  # noqa: S101 - filtered above
    return metric, metric.direction


def sagemaker_code(
    ranges: Mapping[str, SearchRange], objective: str, trials: int, hyperparameters: Mapping[str, str]
) -> str:
    """Return Python code that starts the same search as a tuning job by SDK 2."""
    metric, direction = find_objective(objective)
    values = "".join(f"        {name!r}: {_parameter(value)},\n" for name, value in ranges.items())
    return (
        "from sagemaker.tuner import CategoricalParameter, ContinuousParameter, HyperparameterTuner, IntegerParameter\n"
        "\n"
        f"estimator.set_hyperparameters(**{dict(hyperparameters)!r})\n"
        "tuner = HyperparameterTuner(\n"
        "    estimator,\n"
        f"    objective_metric_name={metric.name!r},\n"
        f"    objective_type={direction!r},\n"
        f"    metric_definitions=[{{'Name': {metric.name!r}, 'Regex': {metric.regex!r}}}],\n"
        f"    hyperparameter_ranges={{\n{values}    }},\n"
        "    strategy='Bayesian',\n"
        f"    max_jobs={trials},\n"
        "    early_stopping_type='Auto',\n"
        ")\n"
    )


def _parameter(value: SearchRange) -> str:
    if isinstance(value, Choices):
        return f"CategoricalParameter({list(value.values)!r})"
    scale = ", scaling_type='Logarithmic'" if value.log else ""
    name = "IntegerParameter" if isinstance(value, IntegerRange) else "ContinuousParameter"
    return f"{name}({value.low!r}, {value.high!r}{scale})"


def describe_parameters(parameters: Mapping[str, object]) -> str:
    """Describe sampled values in one line, such as `learning_rate=0.00123 epochs=5`."""
    return " ".join(
        f"{name}={f'{value:.4g}' if isinstance(value, float) else value}" for name, value in parameters.items()
    )


def check_disjoint(ranges: Mapping[str, SearchRange], hyperparameters: Iterable[str]) -> None:
    """Check that no hyperparameter is both fixed and searched.

    Raises:
        UserError: one is.
    """
    both = sorted(ranges.keys() & set(hyperparameters))
    if both:
        raise UserError(f"{both[0]} is given by --hyperparameter and by --search: leave one out.")
