"""A model that is not significantly better than a constant prediction is reported."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binom, binomtest

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.chance import binomial_tail, chance_probability, check_chance_level
from finetune.monitoring.rules.setup import Setup


def metrics(hits: int, records: int, baseline: float, **changes: object) -> dict[str, Any]:
    return {
        "records": records, "accuracy": hits / records, "majority_baseline_accuracy": baseline, "majority_class": "cat",
    } | changes  # fmt: skip


@pytest.mark.parametrize("records", [1, 2, 7, 40, 1_000, 100_000])
@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.98])
def test_tail_is_exact(records: int, probability: float) -> None:
    middle = int(records * probability)
    for hits in {0, 1, middle, min(records, middle + records // 50), records}:
        expected = binom.sf(hits - 1, records, probability)
        assert binomial_tail(hits, records, probability) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(("hits", "records"), [(13, 20), (14, 20), (15, 20), (270, 500), (52, 100)])
def test_finding_agrees_with_the_exact_test(hits: int, records: int) -> None:
    values = metrics(hits, records, 0.5)
    probability = binomtest(hits, records, 0.5, alternative="greater").pvalue
    assert chance_probability(values) == pytest.approx(probability)
    findings = check_chance_level("test", values, DEFAULTS, Setup(), learned=True)
    assert [finding.rule for finding in findings] == (["ChanceLevel"] if probability > 0.05 else [])


def test_finding_names_numbers() -> None:
    (finding,) = check_chance_level("validation", metrics(13, 20, 0.5), DEFAULTS, Setup(), learned=False)
    assert finding.location == "validation"
    assert finding.observation == (
        "accuracy is 65.0% of 20 records, which always predicting 'cat', with 50.0%, reaches by chance with probability"
        " 0.13"
    )


@pytest.mark.parametrize(
    "values",
    [
        metrics(20, 20, 0.9),
        metrics(10, 20, 0.5, majority_class=None),
        metrics(12, 20, 0.5, micro={"f1": 0.6}),
        # Reported by WorseThanGuess.
        metrics(10, 20, 0.5),
    ],
    ids=["no mistake", "single class", "several labels", "no better"],
)
def test_other_cases_are_not_reported(values: dict[str, Any]) -> None:
    assert check_chance_level("test", values, DEFAULTS, Setup(), learned=False) == []


def test_disabled_rule_reports_nothing() -> None:
    assert check_chance_level("test", metrics(13, 20, 0.5), {}, Setup(), learned=False) == []
