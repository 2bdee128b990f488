"""The defaults of tools are values of this project, and the user's own values take precedence."""

from __future__ import annotations

import pytest

from finetune.config.descriptions import all_hyperparameters
from finetune.config.dialects.table import DIALECTS
from finetune.config.parse import parse_hyperparameters
from finetune.config.values import parse_value


def test_every_default_is_an_allowed_value() -> None:
    for dialect in DIALECTS.values():
        for default in dialect.defaults:
            hyperparameter = all_hyperparameters()[default.hyperparameter]
            assert default.same_as in all_hyperparameters() or parse_value(default.value, hyperparameter.format) != ""


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_can_be_chosen_by_hand(name: str) -> None:
    spec = parse_hyperparameters({"dialect": name.replace("_", "-")})
    assert spec.dialect is not None
    assert spec.dialect.name == name
    assert spec.dialect.summary.startswith(f"{DIALECTS[spec.dialect.name].tool} (dialect={name})")


def test_none_applies_no_defaults_of_a_tool() -> None:
    spec = parse_hyperparameters({"dialect": "none", "num_layers": "18", "mini_batch_size": "64"})
    assert spec.dialect is None
    assert (spec.optimization.optimizer, spec.optimization.batch_size) == ("adamw", 64)


def test_own_values_take_precedence() -> None:
    spec = parse_hyperparameters(
        {"num_layers": "18", "optimizer": "adamw", "weight_decay": "0.05", "dialect": "mxnet_image_classification"}
        | {"strategy": "gradual", "head_learning_rate": "0.3"}
    )
    assert (spec.strategy.name, spec.optimization.head_learning_rate) == ("gradual", 0.3)
    assert spec.dialect is not None
    assert not spec.dialect.defaults.keys() & {"strategy", "head_learning_rate", "optimizer", "model_name"}


def test_a_setting_that_the_tool_does_not_use_is_ignored() -> None:
    spec = parse_hyperparameters({"num_layers": "18", "optimizer": "adam", "weight_decay": "0.3"})
    assert spec.optimization.weight_decay == 0
    note = "weight_decay='0.3' is ignored: Image Classification - MXNet uses it with sgd and nag only."
    assert note in spec.notes


def test_every_default_that_applies_is_told_in_one_line() -> None:
    spec = parse_hyperparameters({"train_only_top_layer": "True", "epochs": "2"})
    assert spec.dialect is not None
    assert spec.dialect.summary == (
        "JumpStart (PyTorch) (recognized by train_only_top_layer); its defaults apply: head_solver=sgd, optimizer=adam,"
        " learning_rate=0.001, layer_decay=1, weight_decay=0, lr_schedule=constant, warmup_fraction=0, batch_size=4,"
        " augmentation=basic, best_metric=accuracy; dialect=none selects those of this image"
    )


def test_an_evaluation_has_no_defaults() -> None:
    spec = parse_hyperparameters({"num_layers": "18", "strategy": "evaluate"})
    assert spec.dialect is not None
    assert spec.dialect.defaults == {}
    assert "its defaults apply: none is needed" in spec.dialect.summary
