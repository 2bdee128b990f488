"""Rule ChanceLevel: the evaluated model is not significantly better than a constant prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup, sentence

SIGNIFICANCE = DEFAULTS["ChanceLevel"]["significance"]
"""Significance for the verdict, which does not depend on the parameters of the rules."""
_NEGLIGIBLE = 1e-18


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return the probability of at least this many successes in independent trials.

    Args:
        successes: At least 0 and at most `trials`.
        trials: Number of trials.
        probability: Probability of a success, between 0 and 1, exclusive.
    """
    total = 0.0
    log_success, log_failure, log_trials = math.log(probability), math.log1p(-probability), math.lgamma(trials + 1)
    for count in range(successes, trials + 1):
        failures = trials - count
        choices = log_trials - math.lgamma(count + 1) - math.lgamma(failures + 1)
        term = math.exp(choices + count * log_success + failures * log_failure)
        total += term
        if count > trials * probability and term < _NEGLIGIBLE * total:
            break
    return min(1.0, total)


def chance_probability(metrics: Mapping[str, Any]) -> float | None:
    """Return the probability that predictions of the most frequent class's accuracy reach that of the model by chance.

    The test is the exact one-sided binomial test. `None` if it does not apply: to several labels per record, to records
    of a single class, and to a model without mistakes.

    Args:
        metrics: Metrics of an evaluated part (`tasks.metrics`).
    """
    if "micro" in metrics or metrics["majority_class"] is None or metrics["accuracy"] == 1.0:
        return None
    records = int(metrics["records"])
    return binomial_tail(round(metrics["accuracy"] * records), records, metrics["majority_baseline_accuracy"])


def check_chance_level(
    part: str, metrics: Mapping[str, Any], rules: Rules, setup: Setup, *, learned: bool | None
) -> list[Finding]:
    """Check whether the accuracy exceeds that of always predicting the most frequent class by more than chance.

    An accuracy that does not exceed it is reported by WorseThanGuess.

    Args:
        part: Evaluated part.
        metrics: Metrics of the part (`tasks.metrics`).
        rules: Rules by name.
        setup: Setup of the job.
        learned: Whether training records are predicted clearly better than by guessing; `None` if unknown.
    """
    parameters, probability = rules.get("ChanceLevel"), chance_probability(metrics)
    if parameters is None or probability is None or probability <= parameters["significance"]:
        return []
    if metrics["accuracy"] <= metrics["majority_baseline_accuracy"]:
        return []
    observation = (
        f"accuracy is {metrics['accuracy']:.1%} of {metrics['records']:,} records, which always predicting"
        f" {metrics['majority_class']!r}, with {metrics['majority_baseline_accuracy']:.1%}, reaches by chance with"
        f" probability {probability:.2g}"
    )
    advice = setup.generalize_better() if learned else setup.fit_better()
    return [Finding("ChanceLevel", None, part, observation, sentence(advice))]
