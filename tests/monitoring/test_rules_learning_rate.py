"""A learning rate far above the usual range is reported before the first step, with advice that fits it."""

from __future__ import annotations

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.curves import TrainingCurves, check_curves
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.learning_rate import check_learning_rates
from finetune.monitoring.rules.setup import Setup
from finetune.strategies.presets import ModelStructure
from finetune.strategies.usual_rates import usual_learning_rates


def setup_of(**hyperparameters: str) -> Setup:
    spec = parse_hyperparameters(hyperparameters)
    structure = ModelStructure(("stem", "head"), "image-classification", new_head=True)
    return Setup(
        strategy=spec.strategy.name, usual_rates=usual_learning_rates(spec.strategy, spec.optimization, structure)
    )


def findings(**hyperparameters: str) -> list[Finding]:
    return check_learning_rates(DEFAULTS, setup_of(**hyperparameters))


def test_request_for_the_built_in_algorithm_is_reported_if_it_is_not_read_as_that_tool_does() -> None:
    assert not findings(use_pretrained_model="1", learning_rate="0.01")
    (finding,) = findings(use_pretrained_model="1", learning_rate="0.01", dialect="none")
    assert finding.observation == (
        "learning_rate=0.01 is far above the usual range of adamw for pretrained layers, 2e-05 to 0.001"
    )
    assert finding.advice == "set learning_rate=0.0002, or optimizer=sgd, for which 0.01 is usual."
    assert findings(use_pretrained_model="1", learning_rate="0.01", optimizer="sgd") == []


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"learning_rate": "0.002"},
        {"strategy": "feature_extraction", "learning_rate": "0.1"},
        {"strategy": "from_scratch", "learning_rate": "0.1", "optimizer": "sgd"},
        {"strategy": "evaluate"},
    ],
)
def test_usual_learning_rates_are_not_reported(hyperparameters: dict[str, str]) -> None:
    assert findings(**hyperparameters) == []


def test_learning_rate_farthest_from_usual_is_reported() -> None:
    (finding,) = findings(learning_rate="0.003", head_learning_rate="5")
    assert "head_learning_rate=5" in finding.observation
    assert finding.advice == "set head_learning_rate=0.003."


def test_no_rule_advises_to_raise_an_excessive_learning_rate() -> None:
    setup = setup_of(learning_rate="0.01")
    assert setup.raise_learning_rate(3) is None
    assert setup.fit_better().startswith("set learning_rate=0.0002")
    rows = [
        {"train:loss": 2.0, "train:accuracy": 0.2, "validation:loss": 2.0, "validation:accuracy": 0.2} for _ in range(9)
    ]
    (finding,) = check_curves(
        TrainingCurves(rows, 20, 500, setup), {"LossNotDecreasing": DEFAULTS["LossNotDecreasing"]}
    )
    assert finding.advice.startswith("set learning_rate=0.0002")
