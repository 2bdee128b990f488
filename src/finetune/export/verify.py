"""Verifies that the exported artifact, loaded by its own handler, reproduces the model's predictions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from finetune.export.handler import load_handler
from finetune.models.transformers.folder import quiet

Content = bytes | tuple[str, ...]

# Largest probability difference due to rounding, with both sides in float32. Measured on a CPU for five models
# (ResNet-50 the worst), 24 images each: 4e-6 for another batch composition. The tolerance is over 20 times that, so
# that no job fails by chance, while a different resize, label order or weight causes larger differences in some
# samples. On a GPU, float32 convolutions round their inputs to TF32, which has the mantissa of fp16 (8e-3 for these
# models).
_TOLERANCES = {"cpu": 1e-4, "cuda": 3e-2}


class ArtifactMismatch(RuntimeError):  # noqa: N818 - named after the problem, like the exceptions for data
    """The artifact's predictions differ from the model's: an internal error, not the user's."""


@dataclass(frozen=True, slots=True)
class VerificationSample:
    """A record and the model's prediction for it.

    Attributes:
        key: identity of the record, for messages.
        content: encoded image, or one or two texts, as read from the channel.
        probabilities: one per class, in the order of the labels.
    """

    key: str
    content: Content
    probabilities: tuple[float, ...]


def tolerance_on(device: str) -> float:
    """Return the tolerance for probabilities computed by the model in float32 on that type of device."""
    return _TOLERANCES[device]


def verify(folder: Path, samples: Sequence[VerificationSample], tolerance: float) -> float:
    """Run samples through the handler in the artifact and compare its predictions with the model's.

    Args:
        folder: folder of the artifact.
        samples: at least one record; a few are enough.
        tolerance: largest allowed difference of a probability, see `tolerance_on`.

    Returns:
        The largest difference.

    Raises:
        ArtifactMismatch: a probability or a predicted label differs by more.
    """
    try:
        handler = load_handler(folder)
    except FileNotFoundError as error:
        raise ArtifactMismatch(f"The exported artifact has no handler: {error}.") from error
    with quiet() if "transformers" in sys.modules else nullcontext():
        model = handler.model_fn(str(folder))
    labels: list[str] = model.artifact["labels"]
    thresholds = torch.tensor(model.artifact.get("thresholds") or [0.5] * len(labels), dtype=torch.float64)
    expectation = _Expectation(labels, thresholds, tolerance)
    return max(_compare(sample, _predict(handler, model, sample.content), expectation) for sample in samples)


def _predict(handler: ModuleType, model: object, content: Content) -> dict[str, Any]:
    if isinstance(content, bytes):
        request = handler.input_fn(content, "application/x-image")
    else:
        inputs = dict(zip(("text", "text_pair"), content, strict=False))
        request = handler.input_fn(json.dumps({"inputs": inputs}), "application/json")
    (record,) = handler.predict_fn(request, model).records
    return dict(record)


@dataclass(frozen=True, slots=True)
class _Expectation:
    """Reference for the handler's predictions: class names, thresholds `[classes]`, largest allowed difference."""

    labels: Sequence[str]
    thresholds: Tensor
    tolerance: float


def _compare(sample: VerificationSample, prediction: Mapping[str, Any], expectation: _Expectation) -> float:
    labels, tolerance = expectation.labels, expectation.tolerance
    expected = torch.tensor(sample.probabilities, dtype=torch.float64)
    actual = torch.tensor(prediction["probabilities"], dtype=torch.float64)
    if expected.shape != actual.shape or list(prediction["labels"]) != list(labels):
        raise ArtifactMismatch(_mismatch_message(sample, prediction, "the classes differ"))
    # A diverged model predicts NaN, and its artifact must do the same.
    both_nan = expected.isnan() & actual.isnan()
    difference = float((expected - actual).abs().masked_fill(both_nan, 0.0).max())
    # The negated comparison also catches NaN.
    if not difference <= tolerance:
        raise ArtifactMismatch(
            _mismatch_message(sample, prediction, f"difference {difference:.2g}, allowed {tolerance:.2g}")
        )
    allowed = _allowed_label_sets if "predicted_labels" in prediction else _allowed_classes
    certain, possible = allowed(expected, expectation)
    predicted = set(prediction.get("predicted_labels", [prediction.get("predicted_label")]))
    if not both_nan.any() and not certain <= predicted <= possible:
        raise ArtifactMismatch(_mismatch_message(sample, prediction, f"predicted labels {sorted(map(str, predicted))}"))
    return difference


def _allowed_classes(expected: Tensor, expectation: _Expectation) -> tuple[set[str], set[str]]:
    """Return what a prediction of one class within the tolerance must contain, and what it may contain."""
    margins = expected - expectation.thresholds
    possible = _labels_above(margins, float(margins.max()) - 2 * expectation.tolerance, expectation)
    return possible if len(possible) == 1 else set(), possible


def _allowed_label_sets(expected: Tensor, expectation: _Expectation) -> tuple[set[str], set[str]]:
    """Return the labels that a prediction within the tolerance must contain, and those that it may contain."""
    margins, slack = expected - expectation.thresholds, 2 * expectation.tolerance
    certain = {name for name, margin in zip(expectation.labels, margins, strict=True) if margin > slack}
    return certain, _labels_above(margins, -slack, expectation)


def _labels_above(margins: Tensor, minimum: float, expectation: _Expectation) -> set[str]:
    return {name for name, margin in zip(expectation.labels, margins, strict=True) if margin >= minimum}


def _mismatch_message(sample: VerificationSample, prediction: Mapping[str, Any], reason: str) -> str:
    predicted, expected = (
        "[" + ", ".join(f"{value:.4f}" for value in values[:8]) + (", ...]" if len(values) > 8 else "]")
        for values in (prediction["probabilities"], sample.probabilities)
    )
    return f"The exported artifact predicts {predicted} for {sample.key}, the model {expected}: {reason}."
