"""Hyperparameters without effect are reported but not rejected; those with an effect are not reported."""

from __future__ import annotations

import dataclasses

import pytest

from finetune.config.descriptions import all_hyperparameters
from finetune.config.parse import parse_hyperparameters
from finetune.config.unused import (
    UNUSED_IN_JOB,
    UNUSED_IN_SPEC,
    JobFacts,
    unused_hyperparameter_notes,
    unused_hyperparameters,
)

IMAGE_JOB = JobFacts(
    parse_hyperparameters({}),
    "image-classification",
    channels=frozenset({"train"}),
    piped=frozenset(),
    freezes=False,
    varies=True,
    keeps_checkpoints=True,
    validates=True,
)


def test_rules_name_declared_hyperparameters() -> None:
    named = {name for rule in UNUSED_IN_SPEC for name in rule.names} | {
        name for rule in UNUSED_IN_JOB for name in rule.names
    }
    assert named <= all_hyperparameters().keys()


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        (
            {"strategy": "full", "unfrozen_groups": "2"},
            "unfrozen_groups has no effect: only strategy='partial' uses it.",
        ),
        ({"momentum": "0.9"}, "momentum has no effect: only sgd, rmsprop and nag use it."),
        (
            {"optimizer": "sgd", "beta_1": "0.8", "beta_2": "0.9"},
            "beta_1, beta_2 have no effect: only adamw and adam use it.",
        ),
        ({"lr_factor": "0.5"}, "lr_factor has no effect: lr_schedule is neither 'step' nor 'exponential'."),
        ({"lr_step_epochs": "3"}, "lr_step_epochs has no effect: lr_schedule is not 'step'."),
        ({"lr_schedule": "step", "lr_step_epochs": "10"}, "lr_step_epochs has no effect: the job ends before"),
        ({"early_stopping_min_epochs": "3"}, "early_stopping_min_epochs has no effect: early_stopping_patience is not"),
        ({"strategy": "evaluate", "epochs": "3", "dropout": "0.1"}, "epochs, dropout have no effect: strategy="),
        ({"strategy": "evaluate", "resume": "auto"}, "resume has no effect: strategy='evaluate' does not train"),
        (
            {"strategy": "feature_extraction", "learning_rate": "0.1", "head_learning_rate": "0.2"},
            "learning_rate has no",
        ),
        (
            {"strategy": "auto", "head_solver": "lbfgs"},
            "head_solver has no effect: only strategy='feature_extraction' uses it.",
        ),
        (
            {"strategy": "feature_extraction", "head_solver": "lbfgs", "epochs": "3", "dropout": "0.1"},
            "epochs, dropout have no effect: head_solver='lbfgs' solves the head without gradient steps.",
        ),
        ({"augmentation": "none", "augmentation_views": "4"}, "augmentation_views has no effect: augmentation='none'"),
        ({"feature_cache": "off", "augmentation_views": "4"}, "augmentation_views has no effect: feature_cache="),
        ({"multi_label": "true", "top_k": "3"}, "top_k has no effect: top-k accuracy"),
        ({"rules": "None", "rule_action": "stop"}, "rule_action has no effect: no rules"),
        ({"task": "text-classification", "image_size": "32"}, "image_size has no effect: it applies to images"),
        ({"focal_gamma": "1"}, "focal_gamma has no effect: only loss='focal' uses it"),
        ({"logit_adjustment": "2", "loss": "focal"}, "logit_adjustment has no effect: only loss='logit_adjusted'"),
        ({"task": "text-classification", "mixup": "0.2"}, "mixup has no effect: it applies to images"),
        ({"task": "image-classification", "header": "true"}, "header has no effect: it applies to texts"),
    ],
)
def test_unused_hyperparameter_is_reported(raw: dict[str, str], note: str) -> None:
    (actual,) = parse_hyperparameters(raw).notes
    assert actual.startswith(note)


@pytest.mark.parametrize(
    "raw",
    [
        {"strategy": "partial", "unfrozen_groups": "2", "layer_decay": "0.9"},
        {"optimizer": "nag", "momentum": "0.8"},
        {"optimizer": "rmsprop", "momentum": "0.8", "eps": "1e-6"},
        {"lr_schedule": "step", "lr_step_epochs": "3,6", "lr_factor": "0.5"},
        {"lr_schedule": "exponential", "lr_factor": "0.5"},
        {"task": "image-classification", "label_column": "class"},
        {"strategy": "feature_extraction", "learning_rate": "0.1"},
        {"strategy": "feature_extraction", "head_solver": "lbfgs", "class_weights": "balanced"},
        {"strategy": "feature_extraction", "head_solver": "sgd", "epochs": "3"},
        {"early_stopping_patience": "2", "early_stopping_min_epochs": "3"},
    ],
)
def test_used_hyperparameter_is_not_reported(raw: dict[str, str]) -> None:
    assert parse_hyperparameters(raw).notes == ()


def job_notes(raw: dict[str, str], **facts: object) -> list[str]:
    spec = parse_hyperparameters(raw)
    job_facts = dataclasses.replace(IMAGE_JOB, spec=spec, **facts)  # type: ignore[arg-type]  # names vary
    return unused_hyperparameter_notes(unused_hyperparameters(UNUSED_IN_JOB, job_facts, spec.set_by_user))


TRAIN = frozenset({"train"})


@pytest.mark.parametrize(
    ("raw", "facts", "note"),
    [
        ({"header": "true"}, {}, "header has no effect: it applies to texts"),
        ({"image_size": "64"}, {"task": "text-classification"}, "image_size has no effect: it applies to images"),
        ({"validation_fraction": "0.1"}, {"channels": TRAIN | {"validation"}}, "validation_fraction has no effect: th"),
        ({"num_training_samples": "9"}, {"channels": frozenset({"test"})}, "num_training_samples has no effect: there"),
        ({"pipe_wait_seconds": "9"}, {}, "pipe_wait_seconds has no effect: no channel is in Pipe mode."),
        ({"shuffle_buffer": "9"}, {"piped": frozenset({"test"})}, "shuffle_buffer has no effect: the channel 'train'"),
        (
            {"group_by_length": "true"},
            {"piped": TRAIN, "task": "text-classification"},
            "group_by_length has no effect: records in Pipe mode",
        ),
        (
            {"feature_cache": "off"},
            {},
            "feature_cache has no effect: no layers are frozen from the input on, so there are no features to cache.",
        ),
        ({"augmentation_views": "4"}, {}, "augmentation_views has no effect: no layers are frozen"),
        (
            {"augmentation": "strong"},
            {"freezes": True, "varies": False},
            "augmentation has no effect: features of frozen",
        ),
        ({"checkpoint_keep": "3"}, {"keeps_checkpoints": False}, "checkpoint_keep has no effect: the job has no check"),
        ({"best_metric": "loss"}, {"validates": False}, "best_metric has no effect: there are no validation records."),
        ({"cache_size_gb": "4"}, {"piped": TRAIN}, "cache_size_gb has no effect: no layers are frozen"),
    ],
)
def test_hyperparameter_unused_in_job_is_reported(raw: dict[str, str], facts: dict[str, object], note: str) -> None:
    (actual,) = job_notes(raw, **facts)
    assert actual.startswith(note)


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        ({"validation_fraction": "0.1", "cache_size_gb": "4", "augmentation": "strong", "image_size": "64"}, {}),
        ({"checkpoint_keep": "3", "resume": "never"}, {}),
        ({"augmentation": "none"}, {"varies": False, "freezes": True}),
        ({"augmentation_views": "4", "feature_cache": "auto", "cache_size_gb": "1"}, {"freezes": True}),
        ({"shuffle_buffer": "9", "pipe_wait_seconds": "9"}, {"piped": TRAIN}),
        ({"group_by_length": "false", "max_length": "8"}, {"task": "text-classification"}),
    ],
)
def test_hyperparameter_used_in_job_is_not_reported(raw: dict[str, str], facts: dict[str, object]) -> None:
    assert job_notes(raw, **facts) == []


def test_unset_or_already_reported_hyperparameters_are_not_reported() -> None:
    assert job_notes({}, freezes=False) == []
    assert len(parse_hyperparameters({"strategy": "evaluate", "feature_cache": "off"}).notes) == 1
    assert job_notes({"strategy": "evaluate", "feature_cache": "off"}) == []
