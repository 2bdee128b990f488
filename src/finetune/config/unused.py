"""Finds hyperparameters set by the user that have no effect, given the other ones or the actual job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from finetune.config.hyperparameters import CheckpointSpec, FeatureSpec, JobSpec, OptimizationSpec, TaskName
from finetune.config.optimizers import OPTIMIZERS, join_names, optimizers_using
from finetune.config.recipes import IMAGE_AUGMENTATION, TEXT_AUGMENTATION, RecipeSpec
from finetune.config.rules import parse_rules
from finetune.config.section import Section

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Facts about a job, known once its channels are open and its plan is made.

    Attributes:
        spec: the checked hyperparameters.
        task: task of its records.
        channels: channels with records, among `train`, `validation` and `test`.
        piped: those of them in Pipe mode.
        freezes: whether a prefix of the layers is frozen in at least one phase.
        varies: whether images are augmented in some phase.
        keeps_checkpoints: whether there is a checkpoint folder.
        validates: whether there are validation records.
    """

    spec: JobSpec
    task: TaskName
    channels: frozenset[str]
    piped: frozenset[str]
    freezes: bool
    varies: bool
    keeps_checkpoints: bool
    validates: bool


@dataclass(frozen=True, slots=True)
class UnusedRule(Generic[Facts]):
    """Hyperparameters that are unused under a condition.

    Attributes:
        names: names of the hyperparameters.
        condition: returns whether they are unused.
        reason: the reason, for the log.
    """

    names: tuple[str, ...]
    condition: Callable[[Facts], bool]
    reason: str


def _names_in(section: type[Section], *others: str) -> tuple[str, ...]:
    """The hyperparameters of a section except some."""
    names = (info.alias or field for field, info in section.model_fields.items())
    return tuple(name for name in names if name not in others)


def _optimizer_ignores(name: str, spec: JobSpec) -> bool:
    return name not in OPTIMIZERS[spec.optimization.optimizer].uses


def _all_lr_steps_too_late(spec: JobSpec) -> bool:
    return spec.strategy.name != "auto" and spec.optimization.lr_step_epochs[:1] >= (spec.optimization.epochs,)


def _only_head_lr_applies(spec: JobSpec) -> bool:
    return spec.strategy.trains_head_only and spec.optimization.head_learning_rate is not None


GRADIENT_HYPERPARAMETERS = (
    *_names_in(OptimizationSpec, "class_weights"),
    *_names_in(RecipeSpec, *IMAGE_AUGMENTATION, *TEXT_AUGMENTATION),
    *("dropout", "compile"),
)
"""Hyperparameters that have an effect only if the head is trained by gradient steps."""
_IMAGE_HYPERPARAMETERS = (
    *("image_size", "augmentation", "augmentation_views", "image_column", "mixup", "cutmix"),
    *IMAGE_AUGMENTATION,
)
_TEXT_HYPERPARAMETERS = (
    *("max_length", "group_by_length", "text_column", "text_pair_column", "header"),
    *TEXT_AUGMENTATION,
)
_IMAGES_ONLY = "it applies to images, and the task is text-classification"
_TEXTS_ONLY = "it applies to texts, and the task is image-classification"

UNUSED_IN_SPEC: tuple[UnusedRule[JobSpec], ...] = (
    UnusedRule(
        (
            *_names_in(OptimizationSpec, "batch_size"),
            *_names_in(RecipeSpec),
            *("dropout", "unfrozen_groups", "layer_decay", "augmentation", "validation_fraction", "shuffle_buffer"),
            *_names_in(FeatureSpec),
            *_names_in(CheckpointSpec),
            *("virtual_devices", "distributed_order", "sharding", "activation_checkpointing", "out_of_memory"),
            "rule_action",
            "max_minutes",
        ),
        lambda spec: not spec.strategy.trains,
        "strategy='evaluate' does not train",
    ),
    UnusedRule(("unfrozen_groups",), lambda spec: spec.strategy.name != "partial", "only strategy='partial' uses it"),
    UnusedRule(
        ("layer_decay", "sharding", "drop_path"),
        lambda spec: spec.strategy.trains_head_only,
        "only the head is trained",
    ),
    UnusedRule(
        ("head_solver",), lambda spec: not spec.strategy.trains_head_only, "only strategy='feature_extraction' uses it"
    ),
    UnusedRule(
        GRADIENT_HYPERPARAMETERS,
        lambda spec: spec.strategy.never_takes_steps,
        "head_solver='lbfgs' solves the head without gradient steps",
    ),
    UnusedRule(("learning_rate",), _only_head_lr_applies, "only the head is trained, and head_learning_rate is set"),
    UnusedRule(("lr_step_epochs",), lambda spec: spec.optimization.lr_schedule != "step", "lr_schedule is not 'step'"),
    UnusedRule(("lr_step_epochs",), _all_lr_steps_too_late, "the job ends before or at the first of them"),
    UnusedRule(
        ("lr_factor",),
        lambda spec: spec.optimization.lr_schedule not in {"step", "exponential"},
        "lr_schedule is neither 'step' nor 'exponential'",
    ),
    *(
        UnusedRule((name,), partial(_optimizer_ignores, name), f"only {join_names(optimizers_using(name))} use it")
        for name in ("momentum", "beta_1", "beta_2", "eps", "rho")
    ),
    UnusedRule(("epochs",), lambda spec: spec.optimization.max_steps is not None, "max_steps takes precedence"),
    UnusedRule(
        ("initial_accumulator_value",), partial(_optimizer_ignores, "initial_accumulator_value"), "only adagrad uses it"
    ),
    UnusedRule(
        ("warmup_fraction",), lambda spec: spec.optimization.warmup_steps is not None, "warmup_steps takes precedence"
    ),
    UnusedRule(
        ("early_stopping_min_delta", "early_stopping_min_epochs"),
        lambda spec: spec.optimization.early_stopping_patience is None and spec.strategy.name != "auto",
        "early_stopping_patience is not set",
    ),
    UnusedRule(("focal_gamma",), lambda spec: spec.recipes.loss != "focal", "only loss='focal' uses it"),
    UnusedRule(
        ("logit_adjustment",),
        lambda spec: spec.recipes.loss != "logit_adjusted",
        "only loss='logit_adjusted' uses it",
    ),
    UnusedRule(_IMAGE_HYPERPARAMETERS, lambda spec: spec.data.task == "text-classification", _IMAGES_ONLY),
    UnusedRule(_TEXT_HYPERPARAMETERS, lambda spec: spec.data.task == "image-classification", _TEXTS_ONLY),
    UnusedRule(
        ("augmentation_views", *IMAGE_AUGMENTATION),
        lambda spec: spec.data.augmentation == "none",
        "augmentation='none' disables augmentation",
    ),
    UnusedRule(
        ("augmentation_strength",),
        lambda spec: spec.data.augmentation == "basic",
        "only augmentation='strong' and 'trivial' use it",
    ),
    UnusedRule(
        ("augmentation_views",),
        lambda spec: spec.features.cache == "off",
        "feature_cache='off' augments images in every epoch",
    ),
    UnusedRule(("top_k",), lambda spec: spec.data.multi_label, "top-k accuracy is not defined with multi_label"),
    UnusedRule(("rule_action",), lambda spec: not parse_rules(spec.observe.rules), "no rules are enabled"),
)
"""Conditions that depend on the hyperparameters only."""

UNUSED_IN_JOB: tuple[UnusedRule[JobFacts], ...] = (
    UnusedRule(_IMAGE_HYPERPARAMETERS, lambda job: job.task == "text-classification", _IMAGES_ONLY),
    UnusedRule(_TEXT_HYPERPARAMETERS, lambda job: job.task == "image-classification", _TEXTS_ONLY),
    UnusedRule(("validation_fraction",), lambda job: "validation" in job.channels, "there is a channel 'validation'"),
    UnusedRule(("num_training_samples",), lambda job: "train" not in job.channels, "there is no channel 'train'"),
    UnusedRule(("pipe_wait_seconds",), lambda job: not job.piped, "no channel is in Pipe mode"),
    UnusedRule(("shuffle_buffer",), lambda job: "train" not in job.piped, "the channel 'train' is not in Pipe mode"),
    UnusedRule(
        ("group_by_length",),
        lambda job: job.channels == job.piped,
        "records in Pipe mode are batched in the order of the stream",
    ),
    UnusedRule(
        ("feature_cache", "augmentation_views"),
        lambda job: not job.freezes,
        "no layers are frozen from the input on, so there are no features to cache",
    ),
    UnusedRule(
        ("augmentation", *IMAGE_AUGMENTATION),
        lambda job: not job.varies and job.spec.data.augmentation != "none",
        "features of frozen layers are cached for images without augmentation; see augmentation_views",
    ),
    UnusedRule(
        TEXT_AUGMENTATION,
        lambda job: not job.varies and job.spec.recipes.augments_texts,
        "features of frozen layers are cached for texts without augmentation; see feature_cache",
    ),
    UnusedRule(
        ("cache_size_gb",),
        lambda job: not job.freezes and (job.task == "text-classification" or job.channels == job.piped),
        "no layers are frozen from the input on, and there are no image files, so nothing is cached",
    ),
    UnusedRule(("best_metric",), lambda job: not job.validates, "there are no validation records"),
    UnusedRule(_names_in(CheckpointSpec), lambda job: not job.keeps_checkpoints, "the job has no checkpoint folder"),
)
"""Conditions that depend on the job: its channels, its task, its plan."""


def unused_hyperparameters(rules: Iterable[UnusedRule[Facts]], facts: Facts, set_by_user: Set[str]) -> dict[str, str]:
    """The first reason, by hyperparameter, why it has no effect although the user set it."""
    reasons: dict[str, str] = {}
    for rule in rules:
        names = [name for name in rule.names if name in set_by_user and name not in reasons]
        if names and rule.condition(facts):
            reasons |= dict.fromkeys(names, rule.reason)
    return reasons


def unused_hyperparameter_notes(reasons: dict[str, str]) -> list[str]:
    """One sentence per reason, naming the hyperparameters without effect."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no effect: {reason}."
        for reason, names in by_reason.items()
    ]
