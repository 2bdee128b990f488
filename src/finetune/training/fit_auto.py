"""Training with strategy `auto`: solves the head, fine-tunes from it, and tries averages of weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.errors import DivergedError
from finetune.models.backbone import Backbone
from finetune.monitoring.score import describe_epoch, rank_of
from finetune.strategies.auto import AutoStrategy
from finetune.strategies.plan import Plan
from finetune.training.observers.base import Observer
from finetune.training.optim import set_peak_learning_rates
from finetune.training.saved_state.averaging import Averaging, host_copies
from finetune.training.saved_state.state import TrainingState
from finetune.training.saved_state.trainable_state import TrainableWeights
from finetune.training.solve import HeadInputs, fit_solved
from finetune.training.trainer import Checkpoints, Training, fit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoObservers:
    """Observers of the two parts of the training.

    Attributes:
        solved: Observer of the epoch that solves the head.
        fine_tuning: Observer of the epochs of fine-tuning.
    """

    solved: Observer
    fine_tuning: Observer


def fit_auto(  # noqa: PLR0913  # by keyword
    training: Training,
    state: TrainingState,
    observers: AutoObservers,
    checkpoints: Checkpoints,
    inputs: HeadInputs,
    *,
    strategy: AutoStrategy,
    decided: Callable[[Plan], None],
) -> bool:
    """Train from the current state to the end.

    The decision after the first epoch is a function of its results, which are part of the state; so a job resumed after
    it decides the same.

    Args:
        training: The training with the initial plan of the strategy.
        state: Initial or resumed state.
        observers: Observers of both parts.
        checkpoints: Saves the state.
        inputs: Candidates for the inputs of the last layer.
        strategy: Decides on the fine-tuning.
        decided: Called with the plan of the fine-tuning.

    Returns:
        Whether training is finished; otherwise it was interrupted, and can be resumed from the state.
    """
    if not fit_solved(training, state, observers.solved, checkpoints, inputs):
        return False
    solution: Mapping[str, Any] | None = state.history.solution
    if solution is None:
        raise RuntimeError("the head was solved, but the state does not say how")
    decision = strategy.decide(solution, perfect=_is_perfect(state))
    logger.info("strategy=auto: %s", decision.reason)
    decided(decision.plan)
    set_peak_learning_rates(training.stepper.optimizer, decision.plan.learning_rates)
    training = replace(training, plan=decision.plan, epochs=decision.epochs)
    try:
        if not fit(training, state, observers.fine_tuning, checkpoints):
            return False
    except DivergedError as error:
        if not state.best.weights:
            raise
        logger.warning("%s The best weights before are exported.", error)
        _end_before_epoch(state)
        return True
    return try_averages(training, state, checkpoints)


def _is_perfect(state: TrainingState) -> bool:
    """Return whether no later weights can have a higher score than the solved head."""
    first = state.history.rows[0]
    return state.best.metric != "loss" and "validation:loss" in first and rank_of(first, state.best.metric)[0] >= 1


def _end_before_epoch(state: TrainingState) -> None:
    """End the training as if the current epoch, in which it diverged, had not begun."""
    state.history.rows.pop()
    state.totals.clear()
    state.progress.step_in_epoch = 0
    state.progress.stopped_early = True


def start_averaging(backbone: Backbone, weights: TrainableWeights) -> Averaging:
    """Return the averaging of a job whose model has the weights that it was loaded with."""
    pretrained, (*_, head) = host_copies(weights), backbone.layer_groups()
    prefixes = tuple(f"{name}." for name, module in backbone.module.named_modules() if name and module in head.modules)
    names = frozenset(name for name in pretrained if name in head.parameters or name.startswith(prefixes))
    return Averaging(pretrained, names)


def try_averages(training: Training, state: TrainingState, checkpoints: Checkpoints) -> bool:
    """Evaluate averages of the solved head and of fine-tuned epochs, and keep the best; `False` if interrupted.

    The weights in the model and in checkpoints remain those of the last epoch, so that a resumed job averages the same.
    """
    progress, averaging = state.progress, state.averaging
    if averaging is None or not state.best.weights or progress.epoch < 2:  # the first is the head's
        return True
    # A job resumed here has not entered the phase yet.
    training.inputs.training(training.plan.phase(progress.epoch - 1))
    last = host_copies(state.weights)
    for name, weights in averaging.averages(last):
        if name in state.history.averages:
            continue
        state.weights.load_state_dict(weights)
        with training.stepper.timing.host("evaluate"):
            metrics = training.evaluate()
        if metrics is not None:
            logger.info("%s: validation %s", name, describe_epoch(metrics, state.best.metric))
            state.history.averages[name] = metrics
            state.best.update(metrics, progress.epoch - 1, state.weights, training.stopping.min_delta, name)
        state.weights.load_state_dict(last)
        if metrics is None:
            return False
        with training.stepper.timing.host("save"):
            checkpoints.epoch_done(state)
    return True
