"""Strategy `auto`: solves the head, then decides by a table whether and how to fine-tune from it.

The table and its sources: docs/decisions/auto-strategy.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from finetune.config.hyperparameters import OptimizationSpec, StrategySpec
from finetune.models.backbone import UNDIVIDED_GROUP
from finetune.strategies.plan import Phase, Plan
from finetune.strategies.presets import ModelStructure, base_learning_rates

Size = Literal["small", "medium", "large"]
Domain = Literal["similar", "different"]

SMALL, MEDIUM = 10, 100
"""Training records per class up to which a data set is small, and medium."""
SIMILAR, SIMILAR_LABELS = 0.75, 0.5
"""Separation of the classes by frozen features from which the data are similar to those of the pretraining: by the
accuracy, and with several labels per record by the loss."""
MIN_STEPS = 150
"""Optimizer steps of fine-tuning that a small number of records must not fall short of."""
_EPOCHS = (4, 50)
"""Smallest and largest number of epochs of fine-tuning."""
_TOP_SHARE = 1 / 3
"""Share of the layer groups below the head that count as the top."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """Fine-tuning after the head is solved.

    Attributes:
        layers: trainable layers; `head` for none besides the solved head.
        rate: factor of the default learning rate of pretrained layers.
        layer_decay: learning rate factor from each layer group to the one below it.
    """

    layers: Literal["head", "top", "all"]
    rate: float = 1.0
    layer_decay: float = 1.0


TABLE: Mapping[tuple[Size, Domain], Treatment] = MappingProxyType(
    {
        ("small", "similar"): Treatment("head"),
        ("small", "different"): Treatment("all", layer_decay=0.9),
        ("medium", "similar"): Treatment("all", 0.5, layer_decay=0.8),
        ("medium", "different"): Treatment("all", 4.0, layer_decay=0.9),
        ("large", "similar"): Treatment("all", layer_decay=0.9),
        ("large", "different"): Treatment("all"),
    }
)
"""Treatments; those of a size train the same layers, or the head alone."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Fine-tuning after the solved head, if any.

    Attributes:
        plan: phases and learning rates; only the phase of the head if nothing follows.
        epochs: number of epochs, including the one of the solved head.
        reason: the measurements and the choice that follows from them, for the log.
    """

    plan: Plan
    epochs: int
    reason: str


@dataclass(frozen=True, slots=True)
class AutoStrategy:
    """The strategy of a job, as far as it is known before the head is solved.

    Attributes:
        strategy: hyperparameters of the strategy.
        optimization: hyperparameters of the fine-tuning, with the number of its epochs.
        layer_decay: layer decay that the user set, if any.
        model: the model.
        records_per_class: mean number of training records of the classes that have any.
        always_fine_tunes: hyperparameters of gradient steps that the user set, which are never without effect.
        compares: whether there are validation records to compare weights with.
    """

    strategy: StrategySpec
    optimization: OptimizationSpec
    layer_decay: float | None
    model: ModelStructure
    records_per_class: float
    always_fine_tunes: tuple[str, ...] = ()
    compares: bool = True

    @property
    def size(self) -> Size:
        """Size of the data set."""
        return "small" if self.records_per_class <= SMALL else "medium" if self.records_per_class <= MEDIUM else "large"

    @property
    def initial_plan(self) -> Plan:
        """The plan with the most trainable layers, from which `decide` only takes layers and learning rates away."""
        return self._plan(TABLE[self.size, "different"])

    def decide(self, solution: Mapping[str, Any], *, perfect: bool = False) -> Decision:
        """Decide by the measurements of the solved head, as JSON values; the same in every process and at every start.

        Args:
            solution: see `training.solve`.
            perfect: whether the solved head makes no error on validation, so that nothing can be better.
        """
        separation: float | None = solution["separation"]
        least = SIMILAR_LABELS if solution["majority_accuracy"] is None else SIMILAR
        domain: Domain = "different" if separation is not None and separation < least else "similar"
        treatment, why = TABLE[self.size, domain], ""
        if perfect and not self.always_fine_tunes:
            treatment, why = Treatment("head"), ", which makes no error on the validation records"
        if treatment.layers == "head" and self.always_fine_tunes:
            treatment = TABLE[self.size, "different"]
            why = f" all the same, as {', '.join(self.always_fine_tunes)} {_are_set(self.always_fine_tunes)}"
        plan = self._plan(treatment)
        epochs = self.optimization.epochs + 1 if treatment.layers != "head" else 1
        relation = "similar to" if domain == "similar" else "different from"
        measured = f"{_describe_separation(solution)}: {relation} the data of the pretraining"
        return Decision(plan, epochs, f"{measured}; {self._describe_size()}; {self._describe(treatment)}{why}")

    def describe(self) -> list[str]:
        """Describe both outcomes in lines of the plan."""
        similar, different = (self._describe(TABLE[self.size, domain]) for domain in ("similar", "different"))
        lines = [
            f"first the head is solved; {self._describe_size()}: if frozen features separate the classes well,"
            f" {similar}; otherwise {different}"
        ]
        if not self.compares:
            lines.append("there are no validation records to compare with: the table alone decides")
        return lines

    def _describe_size(self) -> str:
        return f"{self.records_per_class:.4g} training records per class are a {self.size} data set"

    def _describe(self, treatment: Treatment) -> str:
        if treatment.layers == "head":
            return "the solved head is kept"
        trained = self._trained_body(treatment)
        layers = "all layers are" if len(trained) == len(self.model.groups) - 1 else f"the layers from {trained[0]} are"
        rate, decay = self._rates(treatment)[0], self._layer_decay(treatment)
        decayed = f", times {decay:g} for each layer group further down" if decay < 1 else ""
        return f"{layers} fine-tuned in {self.optimization.epochs} epochs with learning_rate={rate:g}{decayed}"

    def _trained_body(self, treatment: Treatment) -> tuple[str, ...]:
        body = self.model.groups[:-1]
        if treatment.layers == "top" and body != (UNDIVIDED_GROUP,):
            return body[len(body) - max(1, round(len(body) * _TOP_SHARE)) :]
        return body

    def _layer_decay(self, treatment: Treatment) -> float:
        return treatment.layer_decay if self.layer_decay is None else self.layer_decay

    def _rates(self, treatment: Treatment) -> tuple[float, float]:
        """Return the learning rate of the layers below the head, and that of the head."""
        body, head = base_learning_rates(self.strategy, self.optimization, self.model)
        if self.optimization.learning_rate is None:
            body *= treatment.rate
            if self.optimization.head_learning_rate is None:
                head *= treatment.rate
        return body, head

    def _plan(self, treatment: Treatment) -> Plan:
        *_, head = self.model.groups
        phases = [Phase(0, (head,))]
        if treatment.layers != "head":
            phases.append(Phase(1, (*self._trained_body(treatment), head)))
        body_rate, head_rate = self._rates(treatment)
        decay, trainable = self._layer_decay(treatment), phases[-1].trainable
        rates = {
            name: head_rate if name == head else body_rate * decay ** (distance - 1)
            for distance, name in enumerate(reversed(self.model.groups))
        }
        return Plan(
            self.model.groups, tuple(phases), {name: rates[name] for name in self.model.groups if name in trainable}
        )


def fine_tuning_epochs(records: int, optimization: OptimizationSpec) -> int:
    """Return the number of epochs with at least `MIN_STEPS` optimizer steps, within limits."""
    per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    low, high = _EPOCHS
    return min(high, max(low, math.ceil(MIN_STEPS / math.ceil(max(1, records) / per_step))))


def default_patience(epochs: int) -> int:
    """Return the number of epochs of fine-tuning without improvement after which it ends, unless the user sets it."""
    return max(_EPOCHS[0] + 1, math.ceil(epochs / 2))


def with_epochs(optimization: OptimizationSpec, epochs: int) -> OptimizationSpec:
    """Return the hyperparameters with a number of epochs."""
    return optimization.model_copy(update={"epochs": epochs})


def _are_set(names: tuple[str, ...]) -> str:
    return "is set" if len(names) == 1 else "are set"


def _describe_separation(solution: Mapping[str, Any]) -> str:
    estimate, separation = solution["cross_validation"], solution["separation"]
    if estimate is None or separation is None:
        return "the solved head is not cross-validated"
    text = f"the solved head has a cross-validated accuracy of {estimate['accuracy']:.3f}"
    if solution["nearest_mean_accuracy"] is not None:
        text += (
            f" (nearest class mean {solution['nearest_mean_accuracy']:.3f}, most frequent class"
            f" {solution['majority_accuracy']:.3f})"
        )
    return f"{text}, separation {separation:.3f}"
