"""Builds the training setup and its initial state from a job's hyperparameters and plan."""

from __future__ import annotations

from collections.abc import Callable

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from finetune.config.hyperparameters import JobSpec, OptimizationSpec
from finetune.config.rules import parse_rules
from finetune.distributed.virtual_devices import VirtualDevices
from finetune.distributed.world import World
from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.monitoring.rules.activations import ACTIVATION_RULES
from finetune.monitoring.rules.finding import Rules
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.monitoring.score import BestMetric
from finetune.monitoring.timing import Timing
from finetune.runtime.precision import Numerics
from finetune.strategies.freezing import apply_trainable
from finetune.strategies.param_groups import parameter_groups
from finetune.strategies.plan import Plan
from finetune.tasks.task import Task
from finetune.training.build_loss import build_loss
from finetune.training.inputs import InputProvider
from finetune.training.losses import Loss
from finetune.training.mixing import Mixing
from finetune.training.optim import Schedule, build_optimizer
from finetune.training.probe import GuardedProbe, NoProbe, Probe
from finetune.training.process_watch import ProcessWatch
from finetune.training.saved_state.averaged_weights import AveragedWeights
from finetune.training.saved_state.state import (
    BestEpoch,
    EpochMetrics,
    EpochTotals,
    Stateful,
    StreamState,
    TrainingState,
)
from finetune.training.saved_state.trainable_state import OptimizerState, TrainableWeights
from finetune.training.sharded import ShardedTraining
from finetune.training.step import TrainStep, trains_batch_norm
from finetune.training.trainer import EarlyStopping, JobBadRecords, Training, steps_per_epoch


def build_training(  # noqa: PLR0913  # by keyword
    spec: JobSpec,
    backbone: Backbone,
    plan: Plan,
    inputs: InputProvider,
    numerics: Numerics,
    *,
    task: Task,
    evaluate: Callable[[], EpochMetrics | None],
    interrupted: Callable[[], bool],
    setup: Setup,
    world: World,
    devices: VirtualDevices,
    sharded: ShardedTraining | None,
    bad_records: JobBadRecords,
    best_metric: BestMetric,
    out_of_time: Callable[[], bool] = bool,
) -> Training:
    """Build the training setup.

    Args:
        spec: Hyperparameters.
        backbone: Model, with its weights.
        plan: Trainable groups and learning rates.
        inputs: Provides the batches of each phase.
        numerics: Device and precision.
        task: Loss and metrics of the outputs.
        evaluate: Returns the current model's validation metrics, or `None` if interrupted.
        interrupted: Returns whether the job should stop.
        setup: Properties of the job, to tailor the advice of the rules.
        world: The processes of the job.
        devices: The virtual devices, at least as many as processes.
        sharded: The model, if its trainable layers are sharded; their tensors are not inspected.
        bad_records: The bad records found in training.
        best_metric: Determines the best epoch.
        out_of_time: Returns whether no further epoch may begin; called by all processes after each epoch.

    Raises:
        UserError: The batch size is 1 but the model trains batch normalization.
    """
    optimization = spec.optimization
    _refuse_single_records(optimization, backbone, plan)
    loss = build_loss(spec, inputs.records, task, numerics.device)
    inspected = setup if world.is_main and sharded is None else None
    groups = parameter_groups(backbone, plan, optimization.weight_decay)
    # The last bits of the fused kernel for CPUs depend on the sizes of tensors, which sharding changes; a job that only
    # trains the head is never sharded, and its result does not depend on the number of virtual devices.
    fused = numerics.device.type != "cpu" or devices.count == 1 or spec.strategy.trains_head_only
    optimizer = build_optimizer(backbone.module, groups, optimization, fused=fused)
    stepper = _build_step(spec, backbone, optimizer, loss, numerics, inspected)
    return Training(
        stepper=stepper,
        plan=plan,
        schedule=build_schedule(
            optimization, inputs.records.batches_per_epoch or 0, solved_epochs=int(spec.strategy.name == "auto")
        ),
        inputs=inputs,
        epochs=optimization.epochs,
        accumulation=optimization.gradient_accumulation_steps,
        stopping=EarlyStopping(
            optimization.early_stopping_patience,
            optimization.early_stopping_min_delta,
            optimization.early_stopping_min_epochs,
        ),
        evaluate=evaluate,
        interrupted=interrupted,
        world=world,
        devices=devices,
        order=spec.distributed.distributed_order,
        sharded=sharded,
        bad_records=bad_records,
        watch=ProcessWatch(world, stepper.timing),
        best_metric=best_metric,
        ema_decay=0.0 if spec.strategy.never_takes_steps else spec.recipes.ema_decay,
        max_steps=optimization.max_steps,
        out_of_time=out_of_time,
    )


def build_state(
    training: Training, *, bad_records: Stateful, account: Stateful, stream: StreamState, findings: Stateful
) -> TrainingState:
    """Build the initial state of a training, with the state that the surrounding job saves along with it.

    Args:
        training: The training setup.
        bad_records: Skipped records.
        account: Run history with the cost of interruptions.
        stream: Position in a streamed channel.
        findings: Findings of the rules.
    """
    step = training.stepper
    weights = TrainableWeights(step.backbone, training.plan)
    return TrainingState(
        weights=weights,
        optimizer=OptimizerState(step.optimizer, step.backbone.module),
        scaler=step.scaler,
        totals=EpochTotals(step.numerics.device, step.loss.task),
        best=BestEpoch(training.best_metric.exports, training.best_metric.name),
        bad_records=bad_records,
        account=account,
        stream=stream,
        findings=findings,
        probe=step.probe,
        average=AveragedWeights(weights, training.ema_decay),
    )


def _build_step(
    spec: JobSpec, backbone: Backbone, optimizer: Optimizer, loss: Loss, numerics: Numerics, setup: Setup | None
) -> TrainStep:
    """Build the step; its tensors are inspected if `setup` is given."""
    optimization, classes = spec.optimization, loss.task.outputs
    probe: Probe = NoProbe()
    if setup is not None and (rules := _observable_rules(spec)):
        watch = TensorWatch(backbone.module, optimizer, rules, scaled=numerics.scaled, classes=classes, setup=setup)
        probe = GuardedProbe(watch)
    return TrainStep(
        backbone=backbone,
        optimizer=optimizer,
        scaler=GradScaler(numerics.device.type, enabled=numerics.scaled),
        loss=loss,
        numerics=numerics,
        seed=spec.run.seed,
        clip_norm=optimization.gradient_clip_norm,
        mixing=_mixing(spec, backbone),
        timing=Timing(numerics.device),
        probe=probe,
    )


def _mixing(spec: JobSpec, backbone: Backbone) -> Mixing:
    return Mixing(spec.recipes.mixup, spec.recipes.cutmix) if backbone.expects.modality == "image" else Mixing()


def _observable_rules(spec: JobSpec) -> Rules:
    """Return the selected rules, without those on activations if layers are compiled, which hides activations."""
    rules = parse_rules(spec.observe.rules)
    return {name: rule for name, rule in rules.items() if name not in ACTIVATION_RULES or not spec.run.compile}


def build_schedule(optimization: OptimizationSpec, batches: int, solved_epochs: int = 0) -> Schedule:
    """Build the learning rate schedule for epochs of `batches` batches, after those of a single step that solve a head.

    Args:
        optimization: Hyperparameters, with the number of all epochs.
        batches: Number of batches per epoch.
        solved_epochs: Number of epochs that solve a head: 0 or 1.
    """
    per_epoch = steps_per_epoch(batches, optimization.gradient_accumulation_steps)
    total = optimization.max_steps or (optimization.epochs - solved_epochs) * per_epoch
    warmup = optimization.warmup_fraction if optimization.warmup_steps is None else optimization.warmup_steps
    return Schedule(
        name=optimization.lr_schedule,
        total_steps=total,
        steps_per_epoch=per_epoch,
        warmup_steps=round(warmup if warmup >= 1 else warmup * total),
        milestones=optimization.lr_step_epochs,
        factor=optimization.lr_factor,
        first_step=solved_epochs,
    )


def trains_batch_norm_ever(backbone: Backbone, plan: Plan) -> bool:
    """Return whether batch normalization is trained in the last phase, which trains the most layers."""
    apply_trainable(backbone, plan.phases[-1].trainable)
    return trains_batch_norm(backbone.module)


def _refuse_single_records(optimization: OptimizationSpec, backbone: Backbone, plan: Plan) -> None:
    if optimization.batch_size == 1 and trains_batch_norm_ever(backbone, plan):
        raise UserError(
            f"batch_size is 1, but {backbone.name} trains batch normalization, which needs at least two records:"
            " set batch_size=2 or more, or strategy=feature_extraction."
        )
