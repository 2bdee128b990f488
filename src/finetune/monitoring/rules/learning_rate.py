"""Rule LearningRate: a learning rate far above the usual range, known before the first step."""

from __future__ import annotations

from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup, sentence


def check_learning_rates(rules: Rules, setup: Setup) -> list[Finding]:
    """Check the learning rates of the request; the one farthest above its usual range is reported.

    Args:
        rules: Rules by name.
        setup: Setup of the job.
    """
    parameters = rules.get("LearningRate")
    rate = setup.excessive_learning_rate(parameters["threshold"]) if parameters is not None else None
    if rate is None:
        return []
    observation = (
        f"{rate.hyperparameter}={rate.value:g} is far above the usual range of {rate.optimizer} for {rate.layers},"
        f" {rate.lowest:.2g} to {rate.highest:.2g}"
    )
    return [Finding("LearningRate", None, "request", observation, sentence(setup.reduce_learning_rate(rate)))]
