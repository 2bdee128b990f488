"""Protocol of a task: the meaning of the model's outputs, their loss and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.config.hyperparameters import TaskName
from finetune.tasks.thresholds import ChosenThresholds, ThresholdTarget

Targets = NDArray[np.int64] | NDArray[np.float32]
"""Targets of evaluated records, as built by the label map: `[records, ...]`."""
Probabilities = NDArray[np.float32]
"""Predictions for evaluated records: `[records, outputs]`."""


class Task(Protocol):
    """A kind of prediction. Logits are `[records, outputs]`, and targets those that the label map builds."""

    @property
    def outputs(self) -> int:
        """Number of outputs of the model."""
        ...

    @property
    def has_exclusive_classes(self) -> bool:
        """Whether every record belongs to exactly one class."""
        ...

    @property
    def has_thresholds(self) -> bool:
        """Whether decision thresholds can be chosen for a target precision or recall."""
        ...

    @property
    def count_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the counts of an epoch, int64, by their names in checkpoints."""
        ...

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        label_smoothing: float,
        class_weights: Tensor | None,
        focal_gamma: float = 0.0,
    ) -> Tensor:
        """Return the loss summed over the records of a batch; float32, 0-d.

        Args:
            logits: float32.
            targets: Targets on the same device, or soft targets.
            label_smoothing: Share of the target that is spread over all classes.
            class_weights: float32 `[outputs]`, or `None`.
            focal_gamma: Exponent of the focal loss (Lin et al. 2017); 0 for cross-entropy.
        """
        ...

    def soft_targets(self, targets: Tensor) -> Tensor:
        """Return targets as shares of the outputs, float32 `[records, outputs]`, which can be mixed."""
        ...

    def count(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return counts of a batch by name, on the device of the logits; a count that is left out is zero.

        Of soft targets, those with the largest shares count.
        """
        ...

    def training_metrics(self, counts: Mapping[str, Tensor], records: int) -> dict[str, float]:
        """Return metrics of the training records of an epoch from their counts."""
        ...

    def class_counts(self, targets: Tensor) -> Tensor:
        """Return the number of records of every class; float64 `[outputs]`."""
        ...

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Return the mean loss of evaluated records, without smoothing or class weights, computed in float64."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes, in the type of the logits."""
        ...

    def validation_metrics(self, targets: Targets, probabilities: Probabilities) -> dict[str, float]:
        """Return metrics of the validation records of an epoch."""
        ...

    def macro_f1(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Return the mean F1 of the classes that have records; `None` if none has."""
        ...

    def macro_auc(self, targets: Targets, probabilities: Probabilities) -> float | None:
        """Return the mean AUC of each class against the others; `None` if the records define none."""
        ...

    def metrics(self, targets: Targets, probabilities: Probabilities, top_k: int | None) -> dict[str, object]:
        """Return all metrics of evaluated records, as JSON values.

        Raises:
            DataError: There is no record.
            DivergedError: A probability is not finite.
        """
        ...

    def mistakes(
        self, targets: Targets, probabilities: Probabilities
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return the confidence of each record's worst mistake, 0 if there is none, and the index of its class."""
        ...

    def true_classes(self, target: NDArray[np.generic]) -> tuple[str, ...]:
        """Return the names of a record's classes."""
        ...

    def predicted_classes(self, probabilities: Probabilities, thresholds: NDArray[np.float64]) -> tuple[str, ...]:
        """Return the names of the classes predicted for a record; both arguments are `[outputs]`."""
        ...

    def choose_thresholds(
        self, targets: Targets, probabilities: Probabilities, target: ThresholdTarget
    ) -> ChosenThresholds:
        """Return the thresholds that reach a target precision or recall at the least cost to the other quantity."""
        ...

    def metrics_at_thresholds(
        self, targets: Targets, probabilities: Probabilities, chosen: ChosenThresholds
    ) -> dict[str, dict[str, float | None]]:
        """Return precision and recall at chosen thresholds, by class."""
        ...

    def constant_prediction_score(self, class_counts: Sequence[int], records: int | None) -> float:
        """Return the score of the best constant prediction.

        Args:
            class_counts: Number of records of every class, not all zero.
            records: Number of records, if known.
        """
        ...

    def description(self, name: TaskName) -> str:
        """Describe the task in a few words, such as `text-classification, several labels per record`."""
        ...

    def artifact_fields(self) -> dict[str, object]:
        """Return the fields of `artifact.json` that tell the handler what the outputs mean."""
        ...
