"""Strategies are resolved to phases and learning rates, without a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError
from finetune.strategies.plan import Phase, Plan
from finetune.strategies.presets import ModelStructure, default_learning_rates, make_plan

GROUPS = ("stem", "layer1", "layer2", "layer3", "head")


def plan_of(new_head: bool = True, **hyperparameters: str) -> Plan:
    spec = parse_hyperparameters(hyperparameters)
    return make_plan(
        spec.strategy, spec.optimization, ModelStructure(GROUPS, "image-classification", new_head=new_head)
    )


def spec_of(**hyperparameters: str) -> JobSpec:
    return parse_hyperparameters(hyperparameters)


@pytest.mark.parametrize(
    ("strategy", "trainable"),
    [("feature_extraction", ("head",)), ("full", GROUPS), ("from_scratch", GROUPS), ("evaluate", ())],
)
def test_trainable_groups_by_strategy(strategy: str, trainable: tuple[str, ...]) -> None:
    plan = plan_of(strategy=strategy)
    assert plan.phases == (Phase(0, trainable),)
    assert plan.ever_trainable == trainable


def test_partial_is_refused_for_an_encoder_of_a_single_group() -> None:
    spec = parse_hyperparameters({"strategy": "partial"})
    structure = ModelStructure(("encoder", "head"), "text-classification", new_head=True)
    with pytest.raises(UserError, match="cannot be split between its blocks, and is a single group"):
        make_plan(spec.strategy, spec.optimization, structure)


def test_partial_trains_the_last_groups_below_the_head() -> None:
    assert plan_of(strategy="partial", unfrozen_groups="2").phases[0].trainable == ("layer2", "layer3", "head")


def test_partial_refuses_more_groups_than_there_are() -> None:
    with pytest.raises(UserError, match=r"unfrozen_groups is 5.*4 layer groups.*stem"):
        plan_of(strategy="partial", unfrozen_groups="5")


def test_gradual_unfreezes_from_the_top_until_half_of_the_epochs() -> None:
    plan = plan_of(strategy="gradual", epochs="8")
    assert [phase.first_epoch for phase in plan.phases] == [0, 1, 2, 3, 4]
    assert plan.phase(0).trainable == ("head",)
    assert plan.phase(1).trainable == ("layer3", "head")
    assert plan.phase(7).trainable == GROUPS


def test_gradual_with_few_epochs_unfreezes_several_groups_at_once() -> None:
    plan = plan_of(strategy="gradual", epochs="4")
    assert [(phase.first_epoch, len(phase.trainable)) for phase in plan.phases] == [(0, 1), (1, 3), (2, 5)]


def test_default_lr_of_pretrained_layers_is_10_to_100_times_below_the_head() -> None:
    for task in ("image-classification", "text-classification"):
        for optimizer in ("adamw", "sgd", "nag", "rmsprop", "adam"):
            defaults = default_learning_rates(task, spec_of(optimizer=optimizer).optimization)
            assert 10 <= defaults.head / defaults.pretrained <= 100


def test_learning_rate_applies_to_the_layers_trained_by_the_strategy() -> None:
    assert plan_of(strategy="feature_extraction", learning_rate="0.5").learning_rates == {"head": 0.5}
    full = plan_of(strategy="full", learning_rate="0.001").learning_rates
    assert full["layer1"] == 0.001
    assert full["head"] == pytest.approx(0.01)
    assert set(plan_of(strategy="from_scratch", learning_rate="0.25").learning_rates.values()) == {0.25}


def test_reused_head_has_the_learning_rate_of_the_layers_below() -> None:
    learning_rates = plan_of(new_head=False, strategy="full", learning_rate="0.001").learning_rates
    assert learning_rates["head"] == learning_rates["layer3"] == 0.001


def test_head_learning_rate_overrides_the_ratio() -> None:
    learning_rates = plan_of(strategy="full", learning_rate="0.001", head_learning_rate="0.5").learning_rates
    assert (learning_rates["head"], learning_rates["stem"]) == (0.5, 0.001)


def test_layer_decay_decreases_with_distance_from_the_head() -> None:
    learning_rates = plan_of(
        strategy="full", learning_rate="1.0", layer_decay="0.5", head_learning_rate="3.0"
    ).learning_rates
    assert learning_rates == {"stem": 0.0625, "layer1": 0.125, "layer2": 0.25, "layer3": 0.5, "head": 3.0}


def test_inconsistent_plan_is_refused() -> None:
    good = plan_of(strategy="full")
    with pytest.raises(ValueError, match="epoch 0"):
        replace(good, phases=(Phase(1, GROUPS),))
    with pytest.raises(ValueError, match="head"):
        replace(good, learning_rates={name: 1.0 for name in GROUPS if name != "head"})
