"""The strategy of a request that names none follows from its other hyperparameters."""

from __future__ import annotations

import pytest

from finetune.config.parse import parse_hyperparameters


@pytest.mark.parametrize(
    ("raw", "strategy", "reason"),
    [
        ({}, "auto", "the default"),
        ({"seed": "1", "augmentation": "strong", "class_weights": "balanced"}, "auto", "the default"),
        ({"best_metric": "loss", "max_minutes": "10"}, "auto", "the default"),
        ({"epochs": "3"}, "full", "epochs is set, and no strategy"),
        ({"learning_rate": "0.1", "batch_size": "8"}, "full", "batch_size and learning_rate are set, and no strategy"),
        ({"layer_decay": "0.9"}, "full", "layer_decay is set, and no strategy"),
        ({"unfrozen_groups": "2", "epochs": "3"}, "partial", "unfrozen_groups is set, and no strategy"),
        ({"head_solver": "lbfgs"}, "feature_extraction", "head_solver is set, and no strategy"),
        ({"strategy": "auto", "epochs": "3"}, "auto", ""),
        ({"strategy": "gradual", "unfrozen_groups": "2"}, "gradual", ""),
        ({"use_pretrained_model": "1", "strategy": "auto"}, "auto", ""),
        ({"use_pretrained_model": "0"}, "from_scratch", ""),
    ],
)
def test_default_strategy(raw: dict[str, str], strategy: str, reason: str) -> None:
    spec = parse_hyperparameters(raw)
    assert (spec.strategy.name, spec.strategy_reason) == (strategy, reason)
