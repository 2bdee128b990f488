"""Multi-label classification: any number of classes per record, including none; sigmoid and binary cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.config.hyperparameters import TaskName
from finetune.tasks.focal import focal_losses
from finetune.tasks.metrics import (
    THRESHOLD,
    best_constant_prediction,
    macro_auc,
    micro_f1,
    multi_label_macro_f1,
    multi_label_metrics,
)
from finetune.tasks.task import Probabilities, Targets
from finetune.tasks.thresholds import ChosenThresholds, ThresholdTarget, find_threshold, precision_and_recall


@dataclass(frozen=True, slots=True)
class MultiLabelClassification:
    """The `Task` of records with any number of classes; targets are float32 `[records, classes]` of 0 and 1.

    Attributes:
        names: Class names in the order of the outputs.
    """

    names: tuple[str, ...]

    has_exclusive_classes: ClassVar = False
    has_thresholds: ClassVar = True
    count_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"correct": (), "labels": (3,)}

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.names)

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        label_smoothing: float,
        class_weights: Tensor | None,
        focal_gamma: float = 0.0,
    ) -> Tensor:
        """Binary cross-entropy or focal loss, averaged over the classes of each record."""
        smooth = targets * (1 - label_smoothing) + 0.5 * label_smoothing
        if focal_gamma:
            positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
            losses = smooth * focal_losses(positive, focal_gamma) + (1 - smooth) * focal_losses(negative, focal_gamma)
            return (losses if class_weights is None else losses * class_weights).mean(dim=1).sum()
        losses = functional.binary_cross_entropy_with_logits(logits, smooth, weight=class_weights, reduction="none")
        return losses.mean(dim=1).sum()

    def soft_targets(self, targets: Tensor) -> Tensor:
        """The targets themselves."""
        return targets

    def count(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`correct`: records with all classes correct. `labels`: true positive, predicted and true labels."""
        predicted, truth = logits > 0, targets > 0.5
        return {
            "correct": (predicted == truth).all(dim=1).sum(),
            "labels": torch.stack([(predicted & truth).sum(), predicted.sum(), truth.sum()]),
        }

    def training_metrics(self, counts: Mapping[str, Tensor], records: int) -> dict[str, float]:
        """Accuracy of all classes together, and micro F1."""
        true_positives, predicted, actual = counts["labels"].tolist()
        return {
            "accuracy": int(counts["correct"]) / max(1, records),
            "micro_f1": 2 * true_positives / max(1, predicted + actual),
        }

    def class_counts(self, targets: Tensor) -> Tensor:
        """Sums over the records."""
        return targets.double().sum(0)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Mean binary cross-entropy."""
        return float(functional.binary_cross_entropy_with_logits(logits.double(), targets.double()))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of each class."""
        return logits.sigmoid()

    def validation_metrics(self, targets: Targets, probabilities: Probabilities) -> dict[str, float]:
        """Accuracy of all classes together, 0 without records, and micro F1."""
        truth, predicted = targets > 0.5, probabilities > THRESHOLD
        accuracy = float((predicted == truth).all(axis=1).mean()) if len(targets) else 0.0
        return {"accuracy": accuracy, "micro_f1": micro_f1(truth, predicted)}

    def macro_f1(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Mean F1 with classes predicted above a probability of 0.5."""
        return multi_label_macro_f1(targets, probabilities, self.names)

    def macro_auc(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Mean AUC of the classes."""
        return macro_auc(iter((targets > 0.5).T), probabilities)

    def metrics(self, targets: Targets, probabilities: Probabilities, top_k: int | None) -> dict[str, object]:
        """See `multi_label_metrics`; `top_k` does not apply."""
        del top_k
        return multi_label_metrics(targets, probabilities, self.names)

    def mistakes(
        self, targets: Targets, probabilities: Probabilities
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """The class with the most confident mistake, whether it is predicted or not."""
        truth, predicted = targets > 0.5, probabilities > THRESHOLD
        confidences = np.where(predicted != truth, np.where(predicted, probabilities, 1 - probabilities), 0.0)
        return confidences.max(axis=1), confidences.argmax(axis=1)

    def true_classes(self, target: NDArray[np.generic]) -> tuple[str, ...]:
        """The classes with a target of 1."""
        return tuple(name for name, value in zip(self.names, target.tolist(), strict=True) if value > 0.5)

    def predicted_classes(self, probabilities: Probabilities, thresholds: NDArray[np.float64]) -> tuple[str, ...]:
        """The classes above their thresholds."""
        return tuple(self.names[index] for index in np.flatnonzero(probabilities > thresholds).tolist())

    def choose_thresholds(
        self, targets: Targets, probabilities: Probabilities, target: ThresholdTarget
    ) -> ChosenThresholds:
        """A threshold of each class."""
        columns = zip((targets > 0.5).T, probabilities.astype(np.float64).T, strict=True)
        thresholds = [find_threshold(positive, scores, target) for positive, scores in columns]
        missed = tuple(name for name, threshold in zip(self.names, thresholds, strict=True) if threshold is None)
        return ChosenThresholds(tuple(0.5 if threshold is None else threshold for threshold in thresholds), missed)

    def metrics_at_thresholds(
        self, targets: Targets, probabilities: Probabilities, chosen: ChosenThresholds
    ) -> dict[str, dict[str, float | None]]:
        """Precision and recall of each class."""
        columns = zip((targets > 0.5).T, probabilities.astype(np.float64).T, chosen.thresholds, strict=True)
        rows = [precision_and_recall(positive, scores, threshold) for positive, scores, threshold in columns]
        return dict(zip(self.names, rows, strict=True))

    def constant_prediction_score(self, class_counts: Sequence[int], records: int | None) -> float:
        """The highest micro F1 of a constant prediction."""
        return best_constant_prediction(np.array(class_counts), records or max(class_counts))[0]

    def description(self, name: TaskName) -> str:
        """The name, and that records have several labels."""
        return f"{name}, several labels per record"

    def artifact_fields(self) -> dict[str, object]:
        """The handler returns a list of classes per record."""
        return {"multi_label": True, "labels": list(self.names)}
