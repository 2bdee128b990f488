"""Chooses the strategy of a request that names none."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from finetune.config.hyperparameters import JobSpec, StrategyName
from finetune.config.optimizers import join_names
from finetune.config.unused import GRADIENT_HYPERPARAMETERS

PRESUPPOSED: tuple[tuple[tuple[str, ...], StrategyName], ...] = (
    (("unfrozen_groups",), "partial"),
    (("head_solver",), "feature_extraction"),
    ((*(name for name in GRADIENT_HYPERPARAMETERS if name != "best_metric"), "layer_decay"), "full"),
)
"""Hyperparameters that only make sense with a strategy, in the order in which they are considered.

Those of gradient steps describe the training of all layers, as they do without the strategy `auto`.
"""


def with_default_strategy(spec: JobSpec, set_by_user: Set[str]) -> JobSpec:
    """Return the request with the strategy that suits its hyperparameters, if the user did not choose one.

    Args:
        spec: the hyperparameters, whose strategy is the default.
        set_by_user: names of the hyperparameters that the user set.
    """
    if "strategy" in set_by_user:
        return spec
    for candidates, strategy in PRESUPPOSED:
        if names := [name for name in candidates if name in set_by_user]:
            reason = f"{join_names(names)} {'is' if len(names) == 1 else 'are'} set, and no strategy"
            return with_strategy(spec, strategy, reason)
    return replace(spec, strategy_reason="the default")


def with_strategy(spec: JobSpec, strategy: StrategyName, reason: str) -> JobSpec:
    """Return the request with another strategy, for this reason."""
    return replace(spec, strategy=spec.strategy.model_copy(update={"name": strategy}), strategy_reason=reason)
