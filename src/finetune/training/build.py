"""Builds the training setup and its initial state from a job's hyperparameters and plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from finetune.config.hyperparameters import JobSpec, OptimisationSpec
from finetune.data.loading.batches import BatchSource
from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.monitoring.rules.activations import ACTIVATION_RULES
from finetune.monitoring.rules.finding import Rules
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.monitoring.timing import Timing
from finetune.runtime.precision import Numerics
from finetune.strategies.freezing import apply_trainable
from finetune.strategies.param_groups import parameter_groups
from finetune.strategies.plan import Plan
from finetune.training.guarded_probe import GuardedProbe
from finetune.training.inputs import InputProvider
from finetune.training.losses import Loss, balanced_weights
from finetune.training.optimizers import build_optimizer
from finetune.training.probe import NoProbe, Probe
from finetune.training.schedule import Schedule
from finetune.training.state import Best, EpochMetrics, NullState, Stateful, Totals, TrainingState
from finetune.training.step import TrainStep, learns_batch_statistics
from finetune.training.trainable_state import OptimizerState, TrainableWeights
from finetune.training.trainer import EarlyStopping, Training, steps_per_epoch


@dataclass(frozen=True, slots=True)
class Companions:
    """Callbacks, state and settings that the surrounding job passes to training."""

    evaluate: Callable[[], EpochMetrics | None]
    interrupted: Callable[[], bool]
    bad_records: Stateful
    account: Stateful = field(default_factory=NullState)
    rules: Rules = field(default_factory=dict)
    stream: Stateful = field(default_factory=NullState)
    findings: Stateful = field(default_factory=NullState)
    setup: Setup = field(default_factory=Setup)


def build_training(
    spec: JobSpec, backbone: Backbone, plan: Plan, feeds: InputProvider, numerics: Numerics, companions: Companions
) -> tuple[Training, TrainingState]:
    """Build the training setup and its initial state.

    Raises:
        UserError: The batch size is 1 but the model trains batch normalization.
    """
    optimisation = spec.optimisation
    source = feeds.records
    _refuse_single_records(optimisation, backbone, plan)
    groups = parameter_groups(backbone, plan, optimisation.weight_decay)
    optimizer = build_optimizer(backbone.module, groups, optimisation)
    scaler = GradScaler(numerics.device.type, enabled=numerics.scaled)
    loss = Loss(source.label_map.multi_label, optimisation.label_smoothing, _weights(spec, source, numerics))
    stepper = TrainStep(
        backbone,
        optimizer,
        scaler,
        loss,
        numerics,
        spec.run.seed,
        optimisation.gradient_clip_norm,
        Timing(numerics.device),
        _probe(backbone, optimizer, source, companions, spec, scaled=numerics.scaled),
    )
    stopping = EarlyStopping(
        optimisation.early_stopping_patience,
        optimisation.early_stopping_min_delta,
        optimisation.early_stopping_min_epochs,
    )
    training = Training(
        stepper,
        plan,
        build_schedule(optimisation, source.batches_per_epoch or 0),
        feeds,
        optimisation.epochs,
        optimisation.gradient_accumulation_steps,
        stopping,
        companions.evaluate,
        companions.interrupted,
    )
    weights = TrainableWeights(backbone, plan)
    best = Best(keep=stopping.patience is not None)
    state = TrainingState(
        weights,
        OptimizerState(optimizer, backbone.module),
        scaler,
        Totals(numerics.device, multi_label=source.label_map.multi_label),
        best,
        companions.bad_records,
        account=companions.account,
        stream=companions.stream,
        findings=companions.findings,
        probe=stepper.probe,
    )
    return training, state


def _probe(
    backbone: Backbone,
    optimizer: Optimizer,
    source: BatchSource,
    companions: Companions,
    spec: JobSpec,
    *,
    scaled: bool,
) -> Probe:
    rules, classes = _visible(companions.rules, spec), len(source.label_map)
    if not rules:
        return NoProbe()
    watch = TensorWatch(backbone.module, optimizer, rules, scaled=scaled, classes=classes, setup=companions.setup)
    return GuardedProbe(watch)


def _visible(rules: Rules, spec: JobSpec) -> Rules:
    """Return the applicable rules; activations cannot be observed inside compiled layers."""
    return {name: rule for name, rule in rules.items() if name not in ACTIVATION_RULES or not spec.run.compile}


def build_schedule(optimisation: OptimisationSpec, batches: int) -> Schedule:
    """Build the learning rate schedule for epochs of `batches` batches."""
    per_epoch = steps_per_epoch(batches, optimisation.gradient_accumulation_steps)
    total = optimisation.epochs * per_epoch
    return Schedule(
        name=optimisation.lr_schedule,
        total_steps=total,
        steps_per_epoch=per_epoch,
        warmup_steps=round(optimisation.warmup_fraction * total),
        borders=optimisation.lr_step_epochs,
        factor=optimisation.lr_factor,
    )


def _weights(spec: JobSpec, batches: BatchSource, numerics: Numerics) -> torch.Tensor | None:
    if spec.optimisation.class_weights == "none":
        return None
    targets = batches.targets()
    return None if targets is None else balanced_weights(targets, len(batches.label_map)).to(numerics.device)


def _refuse_single_records(optimisation: OptimisationSpec, backbone: Backbone, plan: Plan) -> None:
    if optimisation.batch_size > 1:
        return
    apply_trainable(backbone, plan.phases[-1].trainable)
    if learns_batch_statistics(backbone.module):
        raise UserError(
            f"batch_size is 1, but {backbone.name} learns batch normalisation, which needs at least two records:"
            " choose batch_size=2 or more, or strategy=feature_extraction."
        )
