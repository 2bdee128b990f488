"""Single-label classification: exactly one class per record, softmax and cross-entropy."""

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
from finetune.tasks.metrics import macro_auc, single_label_macro_f1, single_label_metrics
from finetune.tasks.task import Probabilities, Targets
from finetune.tasks.thresholds import ChosenThresholds, ThresholdTarget, find_threshold, precision_and_recall


@dataclass(frozen=True, slots=True)
class SingleLabelClassification:
    """The `Task` of records with exactly one class; targets are int64 class indices `[records]`.

    Attributes:
        names: Class names in the order of the outputs.
    """

    names: tuple[str, ...]

    has_exclusive_classes: ClassVar = True
    count_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"correct": (), "labels": (3,)}
    """`labels` is only counted for several labels per record, but all checkpoints contain it."""

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def has_thresholds(self) -> bool:
        """Only two classes: the second is predicted above its threshold, otherwise the first."""
        return len(self.names) == 2

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        label_smoothing: float,
        class_weights: Tensor | None,
        focal_gamma: float = 0.0,
    ) -> Tensor:
        """Cross-entropy, or the focal loss of the softmax."""
        if focal_gamma:
            soft = targets if targets.is_floating_point() else self.soft_targets(targets)
            soft = soft * (1 - label_smoothing) + label_smoothing / len(self.names)
            if class_weights is not None:
                soft = soft * class_weights
            return (soft * focal_losses(logits.log_softmax(dim=1), focal_gamma)).sum()
        return functional.cross_entropy(
            logits, targets, weight=class_weights, label_smoothing=label_smoothing, reduction="sum"
        )

    def soft_targets(self, targets: Tensor) -> Tensor:
        """One-hot rows."""
        return functional.one_hot(targets, len(self.names)).float()

    def count(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`correct`: records whose class has the highest logit."""
        classes = targets.argmax(dim=1) if targets.is_floating_point() else targets
        return {"correct": (logits.argmax(dim=1) == classes).sum()}

    def training_metrics(self, counts: Mapping[str, Tensor], records: int) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": int(counts["correct"]) / max(1, records)}

    def class_counts(self, targets: Tensor) -> Tensor:
        """Occurrences of the class indices."""
        return torch.bincount(targets, minlength=len(self.names)).double()

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Mean cross-entropy."""
        return float(functional.cross_entropy(logits.double(), targets))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the classes."""
        return logits.softmax(dim=1)

    def validation_metrics(self, targets: Targets, probabilities: Probabilities) -> dict[str, float]:
        """Accuracy; 0 without records."""
        return {"accuracy": float((probabilities.argmax(axis=1) == targets).mean()) if len(targets) else 0.0}

    def macro_f1(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Mean F1 with the most probable class predicted."""
        return single_label_macro_f1(targets, probabilities, self.names)

    def macro_auc(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Mean AUC of one class against the rest; with two classes, the AUC of both."""
        indicators = (targets == index for index in range(len(self.names)))
        return macro_auc(indicators, probabilities)

    def metrics(self, targets: Targets, probabilities: Probabilities, top_k: int | None) -> dict[str, object]:
        """See `single_label_metrics`."""
        return single_label_metrics(targets, probabilities, self.names, top_k)

    def mistakes(
        self, targets: Targets, probabilities: Probabilities
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """The most probable class, if it is not that of the record."""
        classes = probabilities.argmax(axis=1)
        return np.where(classes != targets, probabilities.max(axis=1), 0.0), classes

    def true_classes(self, target: NDArray[np.generic]) -> tuple[str, ...]:
        """The one class of a record."""
        return (self.names[int(target)],)

    def predicted_classes(self, probabilities: Probabilities, thresholds: NDArray[np.float64]) -> tuple[str, ...]:
        """The one class that exceeds its threshold most."""
        return (self.names[int((probabilities - thresholds).argmax())],)

    def choose_thresholds(
        self, targets: Targets, probabilities: Probabilities, target: ThresholdTarget
    ) -> ChosenThresholds:
        """The threshold of the second of two classes, and its complement for the first."""
        threshold = find_threshold(targets == 1, probabilities[:, 1].astype(np.float64), target)
        missed = (self.names[1],) if threshold is None else ()
        threshold = 0.5 if threshold is None else threshold
        return ChosenThresholds((1 - threshold, threshold), missed)

    def metrics_at_thresholds(
        self, targets: Targets, probabilities: Probabilities, chosen: ChosenThresholds
    ) -> dict[str, dict[str, float | None]]:
        """Precision and recall of the second of two classes."""
        scores = probabilities[:, 1].astype(np.float64)
        return {self.names[1]: precision_and_recall(targets == 1, scores, chosen.thresholds[1])}

    def constant_prediction_score(self, class_counts: Sequence[int], records: int | None) -> float:
        """Accuracy of always predicting the most frequent class."""
        del records
        return max(class_counts) / sum(class_counts)

    def description(self, name: TaskName) -> str:
        """The name alone."""
        return name

    def artifact_fields(self) -> dict[str, object]:
        """The handler returns one class per record."""
        return {"multi_label": False, "labels": list(self.names)}
