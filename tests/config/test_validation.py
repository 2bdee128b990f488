"""Contradictory hyperparameters are rejected."""

from __future__ import annotations

import pytest

from finetune.config.descriptions import all_hyperparameters
from finetune.config.parse import parse_hyperparameters
from finetune.config.validation import CONTRADICTIONS
from finetune.errors import UserError


def test_rules_name_declared_hyperparameters() -> None:
    assert {name for rule in CONTRADICTIONS for name in rule.names} <= all_hyperparameters().keys()


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        ({"lr_schedule": "step"}, "lr_schedule='step' needs lr_step_epochs"),
        ({"lr_schedule": "step", "lr_step_epochs": "20,10"}, "lr_step_epochs must be above 0 and ascending"),
        ({"lr_schedule": "step", "lr_step_epochs": "0,10"}, "lr_step_epochs must be above 0 and ascending"),
        ({"strategy": "from_scratch", "reinitialize_top_layer": "false"}, "strategy='from_scratch' initializes"),
        ({"strategy": "evaluate", "reinitialize_top_layer": "true"}, "strategy='evaluate' does not train"),
        (
            {"strategy": "feature_extraction", "head_solver": "lbfgs", "compile": "true"},
            "head_solver='lbfgs' takes no training steps",
        ),
        ({"sharding": "full", "strategy": "gradual"}, "sharding='full' is not supported with strategy='gradual'"),
        ({"sharding": "full", "compile": "true"}, "sharding='full' and compile=true cannot be combined"),
        ({"sharding": "full", "distributed_order": "fast"}, "sharding='full' sums gradients in the fixed order only"),
        ({"loss": "logit_adjusted", "multi_label": "true"}, "loss='logit_adjusted' is defined for one class"),
        ({"sampler": "balanced", "strategy": "auto"}, "strategy='auto' solves the head from each record once"),
        ({"sampler": "balanced", "class_weights": "balanced"}, "sampler='balanced' draws all classes equally often"),
        ({"loss": "logit_adjusted", "class_weights": "balanced"}, "loss='logit_adjusted' and class_weights='balanced'"),
        (
            {"class_weights": '{"a": -1}'},
            "class_weights='{\"a\": -1}' is not allowed: expected one of none, balanced, or",
        ),
        ({"class_weights": "{1, 2}"}, "class_weights='{1, 2}' is not allowed"),
        ({"label_column": "a", "text_column": "a"}, "label_column, text_column and text_pair_column must"),
    ],
)
def test_contradictory_values_are_rejected(raw: dict[str, str], prefix: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    assert str(caught.value).startswith(prefix)


@pytest.mark.parametrize(
    ("strategy", "cause"), [("gradual", "unfreezes layers after epochs"), ("auto", "chooses the number of steps")]
)
def test_number_of_steps_needs_a_strategy_without_its_own(strategy: str, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        parse_hyperparameters({"max_steps": "10", "strategy": strategy})
    assert parse_hyperparameters({"max_steps": "10"}).strategy.name == "full"
