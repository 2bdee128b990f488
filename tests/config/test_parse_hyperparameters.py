"""Parsing of hyperparameter strings into a request, or into an error that says how to fix it."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from finetune.config.descriptions import all_hyperparameters
from finetune.config.hyperparameters import SECTIONS, JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError


def message_for(**raw: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    return str(caught.value)


def test_every_section_is_a_job_spec_field() -> None:
    assert tuple(typing.get_type_hints(JobSpec).values())[: len(SECTIONS)] == SECTIONS


def test_documented_defaults_are_accepted() -> None:
    defaults = {hyperparameter.name: hyperparameter.default for hyperparameter in all_hyperparameters().values()}
    assert dataclasses.replace(parse_hyperparameters(defaults), notes=()) == parse_hyperparameters({})


def test_every_hyperparameter_changes_the_spec() -> None:
    for hyperparameter in all_hyperparameters().values():
        value = other_value(hyperparameter.name)
        extra = {"lr_step_epochs": "1"} if value == "step" else {}
        changed = parse_hyperparameters({hyperparameter.name: value, **extra})
        assert dataclasses.replace(changed, notes=()) != parse_hyperparameters({}), hyperparameter.name


def other_value(name: str) -> str:
    hyperparameter = all_hyperparameters()[name]
    if hyperparameter.format.kind.startswith("one of"):
        return next(choice for choice in hyperparameter.format.choices if choice != hyperparameter.default)
    if name == "rules":
        return "Overfit"
    return {
        "list of strings": "a,b",
        "boolean": "false" if hyperparameter.default == "true" else "true",
        "list of integers": "3,7",
        "string": "s3://bucket/prefix",
        "integer": "9",
        "number": "0.25",
    }[hyperparameter.format.kind]


def test_names_may_contain_dashes() -> None:
    assert parse_hyperparameters({"batch-size": "7"}).optimization.batch_size == 7


def test_names_added_by_clients_are_accepted() -> None:
    spec = parse_hyperparameters(
        {"sagemaker_program": "train.py", "sagemaker_region": '"eu-west-1"', "_tuning_objective_metric": "accuracy"}
    )
    assert spec.notes == ("The objective metric of the tuner is 'accuracy'.",)


def test_unknown_name_is_rejected_with_suggestion() -> None:
    assert message_for(epoch="3") == (
        "Unknown hyperparameter 'epoch' (did you mean 'epochs'?): correct its name or remove it."
    )


def test_suggestion_may_be_an_alias() -> None:
    assert "did you mean 'mini_batch_size'?" in message_for(minibatch_size="3")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("epochs", "0", "an integer, at least 1 and at most 100000 (default 10)."),
        ("epochs", "ten", "an integer"),
        ("epochs", "None", "an integer"),
        ("learning_rate", "0", "a number, above 0 and at most 10, or None."),
        ("learning_rate", "nan", "a number"),
        ("validation_fraction", "1", "at most 0.9"),
        ("dropout", "1", "below 1"),
        ("optimizer", "lion", "one of adamw, adam, sgd, rmsprop, nag, adagrad, adadelta (default adamw)."),
        ("multi_label", "perhaps", "true or false (default false)."),
        ("top_k", "1", "at least 2"),
        ("cache_size_gb", "1e300", "a number, at least 0 and at most 1000000, or None."),
        ("checkpoint_s3_uri", "bucket/prefix", "of the form s3://bucket/prefix, or None."),
        ("lr_step_epochs", "10;20", "a list of integers, separated by commas"),
    ],
)
def test_invalid_value_is_reported_with_allowed_values(name: str, value: str, allowed: str) -> None:
    message = message_for(**{name: value})
    assert message.startswith(f"{name}={value!r} is not allowed: expected ")
    assert allowed in message


def test_all_faults_are_reported_at_once() -> None:
    message = message_for(epochs="0", seed="-1", optimiser="adam", lr_schedule="step")
    assert [line.partition(" ")[0] for line in message.splitlines()] == [
        "Unknown", "epochs='0'", "seed='-1'", "lr_schedule='step'",
    ]  # fmt: skip


def test_fault_hides_only_its_consequences() -> None:
    message = message_for(lr_schedule="step", lr_step_epochs="soon")
    assert message.splitlines() == [
        "lr_step_epochs='soon' is not allowed: expected a list of integers, separated by commas."
    ]


def test_many_faults_fit_into_failure_message() -> None:
    readable = {"string", "list of strings"}
    message = message_for(
        **{
            hyperparameter.name: "?" * 5000
            for hyperparameter in all_hyperparameters().values()
            if hyperparameter.format.kind not in readable
        }
    )
    lines = message.splitlines()
    assert len(message) <= 1024
    assert all(line.endswith((".", "faults.")) for line in lines)
    num_faults = sum(hyperparameter.format.kind not in readable for hyperparameter in all_hyperparameters().values())
    assert lines[-1] == f"... and {num_faults - (len(lines) - 1)} more faults."


def test_long_name_is_truncated() -> None:
    message = message_for(**{"x" * 10_000: "1"})
    assert message.startswith("Unknown hyperparameter 'xxx")
    assert len(message) <= 1024
