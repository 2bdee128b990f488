"""Contradictory combinations of hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from finetune.config.hyperparameters import JobSpec
from finetune.config.rules import parse_rules


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A combination of values that no job can satisfy.

    Attributes:
        names: hyperparameters involved.
        condition: returns whether a request contains the combination.
        message: the fault and its remedy.
    """

    names: frozenset[str]
    condition: Callable[[JobSpec], bool]
    message: str


def _ascending(epochs: tuple[int, ...]) -> bool:
    return all(previous < epoch for previous, epoch in zip((0, *epochs), epochs, strict=False))


def _distinct(*names: str | None) -> bool:
    columns = [name for name in names if name is not None]
    return len(set(columns)) == len(columns)


def _has_target(spec: JobSpec) -> bool:
    return spec.observe.target_precision is not None or spec.observe.target_recall is not None


CONTRADICTIONS = (
    Contradiction(
        frozenset({"best_metric", "early_stopping_patience"}),
        lambda spec: spec.optimization.best_metric == "none" and spec.optimization.early_stopping_patience is not None,
        "early_stopping_patience needs a metric, but best_metric is 'none': remove one of them.",
    ),
    Contradiction(
        frozenset({"best_metric", "multi_label"}),
        lambda spec: spec.optimization.best_metric == "micro_f1" and not spec.data.multi_label,
        "best_metric='micro_f1' needs multi_label=true; with one label per record it is the accuracy: use 'accuracy'.",
    ),
    Contradiction(
        frozenset({"best_metric", "target_precision", "target_recall"}),
        lambda spec: spec.optimization.best_metric == "target" and not _has_target(spec),
        "best_metric='target' needs target_precision or target_recall: set one of them.",
    ),
    Contradiction(
        frozenset({"lr_schedule", "lr_step_epochs"}),
        lambda spec: spec.optimization.lr_schedule == "step" and not spec.optimization.lr_step_epochs,
        "lr_schedule='step' needs lr_step_epochs, the epochs after which the learning rate is reduced, such as 10,20.",
    ),
    Contradiction(
        frozenset({"lr_step_epochs"}),
        lambda spec: not _ascending(spec.optimization.lr_step_epochs),
        "lr_step_epochs must be above 0 and ascending, such as 10,20.",
    ),
    Contradiction(
        frozenset({"strategy", "reinitialize_top_layer"}),
        lambda spec: not spec.strategy.uses_pretrained_weights and spec.model.reinitialize_top_layer == "false",
        "strategy='from_scratch' initializes a new head: remove reinitialize_top_layer='false'.",
    ),
    Contradiction(
        frozenset({"strategy", "reinitialize_top_layer"}),
        lambda spec: not spec.strategy.trains and spec.model.reinitialize_top_layer == "true",
        "strategy='evaluate' does not train, so a new head could only guess: remove reinitialize_top_layer='true'.",
    ),
    Contradiction(
        frozenset({"label_column", "text_column", "text_pair_column"}),
        lambda spec: not _distinct(spec.data.label_column, spec.data.text_column, spec.data.text_pair_column),
        "label_column, text_column and text_pair_column must name different columns.",
    ),
    Contradiction(
        frozenset({"loss", "multi_label"}),
        lambda spec: spec.recipes.loss == "logit_adjusted" and spec.data.multi_label,
        "loss='logit_adjusted' is defined for one class per record, and multi_label is true: use loss='focal' or"
        " class_weights='balanced'.",
    ),
    Contradiction(
        frozenset({"loss", "class_weights"}),
        lambda spec: spec.recipes.loss == "logit_adjusted" and spec.optimization.class_weights == "balanced",
        "loss='logit_adjusted' and class_weights='balanced' both compensate for class frequencies: remove one.",
    ),
    Contradiction(
        frozenset({"sampler", "class_weights", "loss"}),
        lambda spec: (
            spec.recipes.sampler == "balanced"
            and (spec.optimization.class_weights == "balanced" or spec.recipes.loss == "logit_adjusted")
        ),
        "sampler='balanced' draws all classes equally often, for which class_weights='balanced' and"
        " loss='logit_adjusted' would compensate once more: use one of them.",
    ),
    Contradiction(
        frozenset({"compile", "activation_checkpointing"}),
        lambda spec: spec.run.compile and spec.distributed.activation_checkpointing,
        "compile and activation_checkpointing cannot both be true: compiled layers choose themselves what to store."
        " Remove one.",
    ),
    Contradiction(
        frozenset({"compile", "head_solver", "strategy"}),
        lambda spec: spec.run.compile and spec.strategy.trains_head_only and spec.strategy.head_solver == "lbfgs",
        "head_solver='lbfgs' takes no training steps that compile=true could speed up: remove one.",
    ),
    Contradiction(
        frozenset({"max_steps", "strategy"}),
        lambda spec: spec.optimization.max_steps is not None and spec.strategy.name == "gradual",
        "strategy='gradual' unfreezes layers after epochs: set epochs instead of max_steps.",
    ),
    Contradiction(
        frozenset({"max_steps", "strategy"}),
        lambda spec: spec.optimization.max_steps is not None and spec.strategy.name == "auto",
        "strategy='auto' chooses the number of steps: remove max_steps, or use strategy='full'.",
    ),
    Contradiction(
        frozenset({"max_steps", "strategy"}),
        lambda spec: spec.optimization.max_steps is not None and spec.strategy.name == "auto",
        "strategy='auto' solves the head before it fine-tunes for a number of epochs: set epochs instead of max_steps,"
        " or strategy='full'.",
    ),
    Contradiction(
        frozenset({"sampler", "strategy"}),
        lambda spec: spec.recipes.sampler == "balanced" and spec.strategy.name == "auto",
        "strategy='auto' solves the head from each record once: remove sampler='balanced', or set strategy='full'.",
    ),
    Contradiction(
        frozenset({"ema_decay", "strategy"}),
        lambda spec: bool(spec.recipes.ema_decay) and spec.strategy.name == "auto",
        "strategy='auto' compares averages of the weights itself: remove ema_decay, or set strategy='full'.",
    ),
    Contradiction(
        frozenset({"sharding", "strategy"}),
        lambda spec: spec.distributed.sharding == "full" and spec.strategy.name == "gradual",
        "sharding='full' is not supported with strategy='gradual', whose frozen layers become trainable later. Use"
        " strategy='full' or 'partial', or sharding='none'.",
    ),
    Contradiction(
        frozenset({"sharding", "compile"}),
        lambda spec: spec.distributed.sharding == "full" and spec.run.compile,
        "sharding='full' and compile=true cannot be combined: the parameters of sharded layers are exchanged between"
        " the layers. Remove one.",
    ),
    Contradiction(
        frozenset({"sharding", "distributed_order"}),
        lambda spec: spec.distributed.sharding == "full" and spec.distributed.distributed_order == "fast",
        "sharding='full' sums gradients in the fixed order only: remove distributed_order='fast'.",
    ),
    Contradiction(
        frozenset({"target_precision", "target_recall"}),
        lambda spec: spec.observe.target_precision is not None and spec.observe.target_recall is not None,
        "target_precision and target_recall cannot both be set: one threshold cannot guarantee both. Remove one.",
    ),
)


def rule_faults(spec: JobSpec) -> list[str]:
    """Faults of the hyperparameter `rules`."""
    try:
        parse_rules(spec.observe.rules)
    except ValueError as error:
        return [f"rules: {error}."]
    return []


def contradictions(spec: JobSpec, unreadable: Set[str]) -> list[str]:
    """Messages of all contradictions, except those about hyperparameters with unreadable values."""
    messages = [rule.message for rule in CONTRADICTIONS if not rule.names & unreadable and rule.condition(spec)]
    return messages + rule_faults(spec)
