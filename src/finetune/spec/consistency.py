"""Which hyperparameters of a request contradict each other, and which have no effect beside the others?"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from finetune.spec.hyperparameters import OptimisationKnobs
from finetune.spec.job_spec import JobSpec
from finetune.spec.rules import rules_of


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A combination that no job can fulfil.

    Attributes:
        knobs: that take part in it.
        holds: whether a request contains it.
        message: what is wrong and what to change.
    """

    knobs: frozenset[str]
    holds: Callable[[JobSpec], bool]
    message: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Knobs that nothing reads under a condition.

    Attributes:
        knobs: that have no effect.
        holds: the condition.
        because: the reason, for the log.
    """

    knobs: tuple[str, ...]
    holds: Callable[[JobSpec], bool]
    because: str


def _adaptive(spec: JobSpec) -> bool:
    return spec.optimisation.optimizer in {"adamw", "adam"}


def _steps_too_late(spec: JobSpec) -> bool:
    return spec.optimisation.lr_step_epochs[:1] >= (spec.optimisation.epochs,)


def _ascending(epochs: tuple[int, ...]) -> bool:
    return all(before < after for before, after in zip((0, *epochs), epochs, strict=False))


def _distinct(*names: str | None) -> bool:
    given = [name for name in names if name is not None]
    return len(set(given)) == len(given)


CONTRADICTIONS = (
    Contradiction(
        frozenset({"lr_schedule", "lr_step_epochs"}),
        lambda spec: spec.optimisation.lr_schedule == "step" and not spec.optimisation.lr_step_epochs,
        "lr_schedule='step' needs lr_step_epochs, the epochs after which the rate falls, such as 10,20.",
    ),
    Contradiction(
        frozenset({"lr_step_epochs"}),
        lambda spec: not _ascending(spec.optimisation.lr_step_epochs),
        "lr_step_epochs must be above 0 and ascending, such as 10,20.",
    ),
    Contradiction(
        frozenset({"strategy", "reinitialize_top_layer"}),
        lambda spec: spec.strategy.name == "from_scratch" and spec.model.reinitialize_top_layer == "false",
        "strategy='from_scratch' begins with a new head: leave out reinitialize_top_layer='false'.",
    ),
    Contradiction(
        frozenset({"strategy", "reinitialize_top_layer"}),
        lambda spec: spec.strategy.name == "evaluate" and spec.model.reinitialize_top_layer == "true",
        "strategy='evaluate' trains nothing, so a new head could only guess: leave out reinitialize_top_layer='true'.",
    ),
    Contradiction(
        frozenset({"label_column", "text_column", "text_pair_column"}),
        lambda spec: not _distinct(spec.data.label_column, spec.data.text_column, spec.data.text_pair_column),
        "label_column, text_column and text_pair_column must name different columns.",
    ),
    Contradiction(
        frozenset({"target_precision", "target_recall"}),
        lambda spec: spec.observe.target_precision is not None and spec.observe.target_recall is not None,
        "target_precision and target_recall contradict each other: one threshold cannot promise both; give one.",
    ),
)


def rule_faults(spec: JobSpec) -> list[str]:
    """What is wrong with `rules`, if anything."""
    try:
        rules_of(spec.observe.rules)
    except ValueError as error:
        return [f"rules: {error}."]
    return []


_TRAINING = tuple(name for name in OptimisationKnobs.model_fields if name != "batch_size")

IDLE = (
    Idle(
        (*_TRAINING, "dropout", "unfrozen_groups", "layer_decay", "augmentation"),
        lambda spec: spec.strategy.name == "evaluate",
        "strategy='evaluate' trains nothing",
    ),
    Idle(("unfrozen_groups",), lambda spec: spec.strategy.name != "partial", "only strategy='partial' reads it"),
    Idle(("layer_decay",), lambda spec: spec.strategy.name == "feature_extraction", "only the head learns"),
    Idle(("lr_step_epochs",), lambda spec: spec.optimisation.lr_schedule != "step", "lr_schedule is not 'step'"),
    Idle(("lr_step_epochs",), _steps_too_late, "the job has no more epochs than the first of them"),
    Idle(
        ("lr_factor",),
        lambda spec: spec.optimisation.lr_schedule not in {"step", "exponential"},
        "lr_schedule is neither 'step' nor 'exponential'",
    ),
    Idle(("momentum",), _adaptive, "adamw and adam have beta_1 instead"),
    Idle(("beta_1", "beta_2"), lambda spec: not _adaptive(spec), "only adamw and adam read it"),
    Idle(("eps",), lambda spec: spec.optimisation.optimizer in {"sgd", "nag"}, "sgd and nag divide by nothing"),
    Idle(
        ("early_stopping_min_delta", "early_stopping_min_epochs"),
        lambda spec: spec.optimisation.early_stopping_patience is None,
        "early_stopping_patience is not set",
    ),
    Idle(
        ("image_size", "augmentation"),
        lambda spec: spec.data.task == "text-classification",
        "it belongs to images, and the task is text-classification",
    ),
    Idle(
        ("max_length", "group_by_length", "label_column", "text_column", "text_pair_column", "header"),
        lambda spec: spec.data.task == "image-classification",
        "it belongs to texts, and the task is image-classification",
    ),
)


def contradictions(spec: JobSpec, unreadable: Set[str]) -> list[str]:
    """Messages of all contradictions, except those about knobs whose value could not be read."""
    messages = [rule.message for rule in CONTRADICTIONS if not rule.knobs & unreadable and rule.holds(spec)]
    return messages + rule_faults(spec)


def idle_notes(spec: JobSpec, given: Set[str]) -> list[str]:
    """One sentence for each reason why knobs that the user gave have no effect."""
    left = set(given)
    notes = []
    for rule in IDLE:
        knobs = [name for name in rule.knobs if name in left]
        if knobs and rule.holds(spec):
            left -= set(knobs)
            verb = "has" if len(knobs) == 1 else "have"
            notes.append(f"{', '.join(knobs)} {verb} no effect: {rule.because}.")
    return notes
