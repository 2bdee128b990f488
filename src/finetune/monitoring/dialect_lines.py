"""Metric lines in the form of the tool whose request the job reads, for metric definitions written for that tool.

They are logged beside the lines of this project, and have fixed decimals, because published regular expressions read
`1e-05` as 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.config.dialects.dialect import DialectName
from finetune.messages import MetricLine

_LEARNING_RATE_DECIMALS = 10


@dataclass(frozen=True, slots=True)
class EpochValues:
    """Values of an epoch.

    Attributes:
        epoch: Epoch from 0.
        epochs: Number of epochs of the job.
        metrics: Values by name, such as `train:loss` and `validation:accuracy`.
        learning_rate: Learning rate of the head in the last step; `None` at the end of the job.
        host: Name of the host.
    """

    epoch: int
    epochs: int
    metrics: Mapping[str, float]
    learning_rate: float | None
    host: str

    def named(self, names: Mapping[str, str]) -> dict[str, str]:
        """Return the values that exist, as text, under other names."""
        return {name: f"{self.metrics[ours]:.6f}" for ours, name in names.items() if ours in self.metrics}


def _mxnet(values: EpochValues) -> list[str]:
    lines = []
    for part, accuracy in values.named({"train:accuracy": "train", "validation:accuracy": "validation"}).items():
        lines.append(f"Epoch[{values.epoch}] {part.title()}-accuracy={accuracy}")
        lines.append(f"#quality_metric: host={values.host}, epoch={values.epoch}, {part} accuracy <score>=({accuracy})")
    return lines


def _pairs(values: EpochValues, names: Mapping[str, str]) -> str:
    return " - ".join(f"{name}: {text}" for name, text in values.named(names).items())


def _keras(values: EpochValues) -> list[str]:
    names = {"train:loss": "loss", "train:accuracy": "accuracy", "validation:loss": "val_loss"}
    pairs = _pairs(values, names | {"validation:accuracy": "val_accuracy", "validation:auc": "val_auc"})
    return [f"Epoch {values.epoch + 1}/{values.epochs} - {pairs}"] if pairs else []


def _keras_texts(values: EpochValues) -> list[str]:
    accuracy = values.named({"validation:accuracy": "val_accuracy"})
    return [*_keras(values), *(f"{name}={text}" for name, text in accuracy.items())]


def _blazingtext(values: EpochValues) -> list[str]:
    names = {"train:accuracy": "#train_accuracy", "validation:accuracy": "#validation_accuracy"}
    return [f"{name}: {text}" for name, text in values.named(names).items()]


def _jumpstart(values: EpochValues) -> list[str]:
    names = {"train:loss": "train Loss", "train:accuracy": "train Acc", "validation:loss": "val Loss"}
    accuracy = values.named({"validation:accuracy": "val_accuracy"})
    pairs = _pairs(values, names | {"validation:accuracy": "val Acc"})
    extra = [f"val_accuracy: {text}" for text in accuracy.values()]
    return [" - ".join([f"Epoch {values.epoch + 1}/{values.epochs}", pairs, *extra])] if pairs else []


def _huggingface(values: EpochValues) -> list[str]:
    epoch = f"'epoch': {values.epoch + 1}.0"
    evaluated = values.named(
        {f"validation:{name}": f"eval_{name}" for name in ("loss", "accuracy")} | {"validation:macro_f1": "eval_f1"}
    )
    trained = values.named({"train:loss": "loss"})
    if values.learning_rate is not None:
        trained["learning_rate"] = f"{values.learning_rate:.{_LEARNING_RATE_DECIMALS}f}"
    return [
        "{" + ", ".join([*(f"'{name}': {text}" for name, text in group.items()), epoch]) + "}"
        for group in (trained, evaluated)
        if group
    ]


_FORMS: Mapping[DialectName, Callable[[EpochValues], list[str]]] = {
    "mxnet_image_classification": _mxnet,
    "tensorflow_image_classification": _keras,
    "tensorflow_text_classification": _keras_texts,
    "blazingtext": _blazingtext,
    "jumpstart": _jumpstart,
    "huggingface": _huggingface,
}


class DialectLines:
    """The metric lines of a job in the form of its dialect; none without a dialect."""

    def __init__(self, name: DialectName | None, host: str = "algo-1") -> None:
        """Initialize for a host, whose name some tools print."""
        self._name = name
        self._host = host

    def epoch(
        self, epoch: int, epochs: int, metrics: Mapping[str, float], learning_rate: float | None = None
    ) -> list[MetricLine]:
        """Return the lines of an epoch.

        Args:
            epoch: Epoch from 0.
            epochs: Number of epochs of the job.
            metrics: Values by name, such as `train:loss`.
            learning_rate: Learning rate of the head in its last step.
        """
        if self._name is None:
            return []
        values = EpochValues(epoch, epochs, metrics, learning_rate, self._host)
        return [MetricLine(line) for line in _FORMS[self._name](values)]

    def final(self, epochs: int, metrics: Mapping[str, float], seconds: float) -> list[MetricLine]:
        """Return the lines of the exported weights, which follow those of the epochs.

        Args:
            epochs: Number of finished epochs.
            metrics: Values by name, such as `validation:accuracy`.
            seconds: Duration of the job, which the Hugging Face Trainer prints.
        """
        lines = self.epoch(max(0, epochs - 1), epochs, metrics)
        if self._name == "huggingface":
            lines += [MetricLine(f"epoch         = {epochs}.0"), MetricLine(f"train_runtime = {seconds:.4f}")]
        return lines
