"""Learning rates are compared with the usual ones for their layers and optimizer."""

from __future__ import annotations

import pytest

from finetune.config.hyperparameters import TaskName
from finetune.config.optimizers import OPTIMIZERS, LearningRateInUse
from finetune.config.parse import parse_hyperparameters
from finetune.strategies.presets import ModelStructure
from finetune.strategies.usual_rates import usual_learning_rates


def rates(
    task: TaskName = "image-classification", *, new_head: bool = True, **hyperparameters: str
) -> dict[str, LearningRateInUse]:
    spec = parse_hyperparameters(hyperparameters)
    structure = ModelStructure(("stem", "middle", "head"), task, new_head)
    return {rate.hyperparameter: rate for rate in usual_learning_rates(spec.strategy, spec.optimization, structure)}


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial", "full", "gradual", "from_scratch"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", ["image-classification", "text-classification"])
def test_defaults_are_usual(strategy: str, optimizer: str, task: TaskName) -> None:
    for new_head in (True, False):
        for rate in rates(task, new_head=new_head, strategy=strategy, optimizer=optimizer).values():
            assert rate.lowest < rate.default < rate.highest
            assert rate.lowest < rate.value < rate.highest


def test_range_depends_on_layers_and_optimizer() -> None:
    pretrained = rates(learning_rate="0.01")["learning_rate"]
    assert (pretrained.layers, pretrained.default, pretrained.highest) == ("pretrained layers", 2e-4, 1e-3)
    assert pretrained.suitable_optimizer == "sgd"
    momentum = rates(learning_rate="0.01", optimizer="nag")["learning_rate"]
    assert momentum.lowest < momentum.value < momentum.highest
    scratch = rates(learning_rate="0.01", strategy="from_scratch")["learning_rate"]
    assert scratch.layers == "layers with random weights"
    assert scratch.highest == pytest.approx(5e-3)
    head = rates(learning_rate="0.01", strategy="feature_extraction")["learning_rate"]
    assert head.layers == "a head on frozen layers"
    assert head.value < head.highest
    assert rates(head_learning_rate="0.01")["head_learning_rate"].layers == "a head on trained layers"


def test_larger_batches_allow_larger_steps() -> None:
    adaptive = rates(batch_size="64", gradient_accumulation_steps="8")["learning_rate"]
    assert adaptive.highest == pytest.approx(4 * rates()["learning_rate"].highest)
    usual = rates(optimizer="sgd")["learning_rate"]
    large = rates(optimizer="sgd", batch_size="64", gradient_accumulation_steps="8")["learning_rate"]
    assert large.highest == pytest.approx(16 * usual.highest)
    assert rates(batch_size="8")["learning_rate"].highest == rates()["learning_rate"].highest


def test_nothing_is_compared_without_training() -> None:
    assert rates(strategy="evaluate") == {}
