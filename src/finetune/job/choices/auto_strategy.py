"""Chooses the hyperparameters of strategy `auto`, or another strategy if the head of the job cannot be solved."""

from __future__ import annotations

from dataclasses import replace

from finetune.config.default_strategy import with_strategy
from finetune.config.hyperparameters import JobSpec
from finetune.config.unused import GRADIENT_HYPERPARAMETERS
from finetune.job.data.inputs import Inputs, training_counts
from finetune.models.backbone import Backbone
from finetune.strategies.auto import AutoStrategy, default_patience, fine_tuning_epochs, with_epochs
from finetune.strategies.presets import ModelStructure

_NOT_OF_FINE_TUNING = ("best_metric",)


def choose_auto_strategy(spec: JobSpec, model: ModelStructure, inputs: Inputs) -> AutoStrategy | None:
    """Return the strategy `auto` of a job, or `None` if the request has another strategy."""
    if spec.strategy.name != "auto":
        return None
    records = len(inputs.train.indices) if inputs.train else 0
    counts = [count for count in training_counts(inputs).values() if count]
    optimization = spec.optimization
    if "epochs" not in spec.set_by_user:
        optimization = with_epochs(optimization, fine_tuning_epochs(records, optimization))
    return AutoStrategy(
        spec.strategy,
        optimization,
        spec.strategy.layer_decay if "layer_decay" in spec.set_by_user else None,
        model,
        records_per_class=sum(counts) / max(1, len(counts)),
        always_fine_tunes=tuple(
            name
            for name in (*GRADIENT_HYPERPARAMETERS, "layer_decay")
            if name in spec.set_by_user and name not in _NOT_OF_FINE_TUNING
        ),
        compares=inputs.validation is not None,
    )


def with_solved_epoch(spec: JobSpec, strategy: AutoStrategy) -> JobSpec:
    """Return the hyperparameters with the number of all epochs, of which the first solves the head, and a patience."""
    epochs = strategy.optimization.epochs
    optimization = with_epochs(strategy.optimization, epochs + 1)
    if optimization.early_stopping_patience is None and optimization.best_metric != "none":
        optimization = optimization.model_copy(update={"early_stopping_patience": default_patience(epochs)})
    return replace(spec, optimization=optimization)


def obstacle_to_auto(spec: JobSpec, backbone: Backbone, inputs: Inputs) -> str | None:
    """Return the reason why `auto` cannot be used, as a clause, as far as it is known before the plan."""
    conditions = {
        "there are no training records": inputs.train is None and "train" not in inputs.streams,
        "records are streamed (Pipe mode)": bool(inputs.streams),
        "the head of the weights is kept, and training continues from it": backbone.weights.kept_head,
        "sharding=full cannot make layers trainable later": spec.distributed.sharding == "full",
        "compile=true speeds up the steps of one phase": spec.run.compile,
        "the model has no layers below its head": len(backbone.layer_groups()) == 1,
    }
    return next((obstacle for obstacle, applies in conditions.items() if applies), None)


def without_auto(spec: JobSpec, obstacle: str) -> JobSpec:
    """Return the hyperparameters with the strategy that replaces `auto`."""
    return with_strategy(spec, "full", f"auto does not apply: {obstacle}")
