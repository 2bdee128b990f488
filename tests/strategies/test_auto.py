"""The table of strategy auto: sizes, domains, what is fine-tuned, and hyperparameters that the user sets."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.strategies.auto import (
    SIMILAR,
    TABLE,
    AutoStrategy,
    Domain,
    Size,
    fine_tuning_epochs,
    with_epochs,
)
from finetune.strategies.plan import Phase
from finetune.strategies.presets import ModelStructure

GROUPS = ("embeddings", "layer1", "layer2", "layer3", "head")


def strategy(records_per_class: float, always: tuple[str, ...] = (), **hyperparameters: str) -> AutoStrategy:
    spec = parse_hyperparameters({"strategy": "auto", **hyperparameters})
    decay = spec.strategy.layer_decay if "layer_decay" in hyperparameters else None
    model = ModelStructure(GROUPS, "text-classification", new_head=True)
    return AutoStrategy(spec.strategy, spec.optimization, decay, model, records_per_class, always)


def solution(separation: float | None, majority: float | None = 0.25) -> dict[str, Any]:
    estimate = None if separation is None else {"accuracy": 0.25 + 0.75 * separation}
    return {
        "cross_validation": estimate,
        "separation": separation,
        "nearest_mean_accuracy": None if majority is None else 0.5,
        "majority_accuracy": majority,
    }


def test_each_size_trains_the_same_layers_or_the_head_alone() -> None:
    assert TABLE.keys() == {(size, domain) for size in get_args(Size) for domain in get_args(Domain)}
    for size in get_args(Size):
        assert TABLE[size, "similar"].layers in {"head", TABLE[size, "different"].layers}
        assert TABLE[size, "different"].layers != "head"


@pytest.mark.parametrize(
    ("records_per_class", "size"), [(1, "small"), (10, "small"), (11, "medium"), (100, "medium"), (101, "large")]
)
def test_sizes(records_per_class: float, size: Size) -> None:
    assert strategy(records_per_class).size == size


def test_few_similar_records_keep_the_solved_head() -> None:
    decision = strategy(5).decide(solution(SIMILAR))
    assert decision.epochs == 1
    assert decision.plan.phases == (Phase(0, ("head",)),)
    assert (
        "similar to the data of the pretraining; 5 training records per class are a small data set" in decision.reason
    )
    assert decision.reason.endswith("the solved head is kept")


def test_few_different_records_are_fine_tuned() -> None:
    auto = strategy(5, epochs="7")
    decision = auto.decide(solution(SIMILAR - 0.01))
    assert decision.epochs == 8
    assert decision.plan == auto.initial_plan
    assert decision.plan.phases == (Phase(0, ("head",)), Phase(1, GROUPS))
    assert "all layers are fine-tuned in 7 epochs with learning_rate=5e-05" in decision.reason


def test_similar_records_have_lower_learning_rates() -> None:
    similar, different = (strategy(50).decide(solution(value)).plan for value in (0.9, 0.1))
    assert similar.phases == different.phases == (Phase(0, ("head",)), Phase(1, GROUPS))
    assert different.learning_rates["layer3"] == different.learning_rates["head"] == 2e-4
    assert different.learning_rates["layer2"] == pytest.approx(0.9 * 2e-4)
    assert similar.learning_rates["layer3"] == 2.5e-5
    assert similar.learning_rates["embeddings"] == pytest.approx(0.8**3 * 2.5e-5)


def test_a_head_without_errors_is_kept() -> None:
    decision = strategy(50).decide(solution(0.9), perfect=True)
    assert decision.epochs == 1
    assert decision.reason.endswith("the solved head is kept, which makes no error on the validation records")
    assert strategy(50, ("epochs",)).decide(solution(0.9), perfect=True).epochs > 1


def test_without_cross_validation_the_data_count_as_similar() -> None:
    decision = strategy(1).decide(solution(None))
    assert decision.epochs == 1
    assert decision.reason.startswith("the solved head is not cross-validated: similar")


def test_several_labels_are_compared_by_the_loss() -> None:
    assert strategy(5).decide(solution(0.6, majority=None)).epochs == 1
    assert strategy(5).decide(solution(0.4, majority=None)).epochs > 1


def test_hyperparameters_that_are_set_always_have_an_effect() -> None:
    decision = strategy(5, ("epochs", "batch_size"), epochs="3", batch_size="8").decide(solution(0.9))
    assert decision.epochs == 4
    assert decision.reason.endswith("all the same, as epochs, batch_size are set")
    rates = strategy(50, learning_rate="0.001", layer_decay="0.5").decide(solution(0.9)).plan.learning_rates
    assert (rates["head"], rates["layer3"], rates["layer2"]) == (0.001, 0.001, 0.0005)
    rates = strategy(50, head_learning_rate="0.001").decide(solution(0.9)).plan.learning_rates
    assert (rates["head"], rates["layer3"]) == (0.001, 2.5e-5)


def test_an_encoder_of_a_single_group_is_trained_whole() -> None:
    spec = parse_hyperparameters({"strategy": "auto"})
    model = ModelStructure(("encoder", "head"), "text-classification", new_head=True)
    auto = AutoStrategy(spec.strategy, spec.optimization, None, model, 5)
    assert auto.initial_plan.phases[1].trainable == ("encoder", "head")


@pytest.mark.parametrize(("records", "epochs"), [(1, 50), (80, 50), (320, 15), (3200, 4), (10**6, 4)])
def test_epochs_have_enough_steps(records: int, epochs: int) -> None:
    optimization = parse_hyperparameters({}).optimization
    assert fine_tuning_epochs(records, optimization) == epochs
    assert with_epochs(optimization, epochs).epochs == epochs
