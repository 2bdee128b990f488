"""Where data and models meet: the network's expected input becomes the transform, the plan becomes optimizer groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.amp.grad_scaler import GradScaler

from finetune.data.bad_records import BadRecords
from finetune.data.batches import Batches, BatchOptions, Dataset
from finetune.data.images import ImageGeometry
from finetune.data.texts import TextTransform
from finetune.data.transforms import ImageTransform, Transform
from finetune.errors import UserError
from finetune.job.inputs import Inputs, Part
from finetune.models.backbone import Backbone, ImageInput
from finetune.spec.job_spec import JobSpec, OptimisationSpec
from finetune.strategies.freezing import apply_trainable
from finetune.strategies.param_groups import parameter_groups
from finetune.strategies.plan import Plan
from finetune.training.loop import EarlyStopping, Training, steps_per_epoch
from finetune.training.losses import Loss, balanced_weights
from finetune.training.optimizers import build_optimizer
from finetune.training.precision import Numerics
from finetune.training.schedule import Schedule
from finetune.training.state import Best, LearningWeights, OptimizerState, Row, Totals, TrainingState
from finetune.training.step import Stepper, learns_batch_statistics

PROBE_RECORDS = 16
_MOST_WORKERS = 16
_EVALUATION_FACTOR = 2
"""An evaluation keeps no activations for a backward pass, so its batches may be larger."""


@dataclass(frozen=True, slots=True)
class Loaders:
    """Batches by purpose; `None` where there are no records for it.

    Attributes:
        probe: a few records, to prove an artifact that no evaluation was finished for.
        bad_records: by the channel that they lie in.
    """

    train: Batches | None
    validation: Batches | None
    test: Batches | None
    probe: Batches | None
    bad_records: dict[str, BadRecords]


def default_workers(device: torch.device) -> int:
    """Decoding threads where the user names no number: all cores but one beside a GPU, two where the CPU trains."""
    cores = len(os.sched_getaffinity(0))
    return min(_MOST_WORKERS, cores - 1) if device.type == "cuda" else min(2, cores)


def build_loaders(inputs: Inputs, backbone: Backbone, spec: JobSpec, device: torch.device) -> Loaders:
    """Batches of every part, transformed to what the network expects; only training records are augmented."""
    bad = {
        part.reader.channel: BadRecords(part.reader.channel, spec.data.max_bad_records)
        for part in inputs.parts().values()
    }
    workers = default_workers(device) if spec.run.workers is None else spec.run.workers

    def batches(part: Part | None, *, training: bool) -> Batches | None:
        if part is None or not part.indices:
            return None
        options = BatchOptions(
            batch_size=spec.optimisation.batch_size * (1 if training else _EVALUATION_FACTOR),
            seed=spec.run.seed,
            shuffle=training,
            augment=training and spec.data.augmentation != "none",
            workers=workers,
            pin_memory=device.type == "cuda",
        )
        dataset = Dataset(part.reader, part.indices, inputs.labels, _transform(backbone, spec))
        return Batches(dataset, options, bad[part.reader.channel])

    training = spec.strategy.name != "evaluate"
    probed = inputs.validation or inputs.test or inputs.train
    return Loaders(
        train=batches(inputs.train, training=training),
        validation=batches(inputs.validation, training=False),
        test=batches(inputs.test, training=False),
        probe=batches(probed and Part(probed.reader, probed.indices[:PROBE_RECORDS]), training=False),
        bad_records=bad,
    )


def _transform(backbone: Backbone, spec: JobSpec) -> Transform:
    expects = backbone.expects
    if isinstance(expects, ImageInput):
        return ImageTransform(
            ImageGeometry(expects.size, expects.resize, expects.interpolation), spec.data.augmentation
        )
    return TextTransform(expects.tokenizer, expects.max_length)


@dataclass(frozen=True, slots=True)
class Companions:
    """What training is given by the job around it."""

    evaluate: Callable[[], Row | None]
    interrupted: Callable[[], bool]


def build_training(
    spec: JobSpec, backbone: Backbone, plan: Plan, batches: Batches, numerics: Numerics, companions: Companions
) -> tuple[Training, TrainingState]:
    """The training as a whole, at its very beginning.

    Raises:
        UserError: single-record batches for a network that learns batch statistics.
    """
    optimisation = spec.optimisation
    _refuse_single_records(optimisation, backbone, plan)
    groups = parameter_groups(backbone, plan, optimisation.weight_decay)
    optimizer = build_optimizer(backbone.module, groups, optimisation)
    scaler = GradScaler(numerics.device.type, enabled=numerics.scaled)
    loss = Loss(batches.dataset.label_map.multi_label, optimisation.label_smoothing, _weights(spec, batches, numerics))
    stepper = Stepper(backbone, optimizer, scaler, loss, numerics, spec.run.seed, optimisation.gradient_clip_norm)
    stopping = EarlyStopping(
        optimisation.early_stopping_patience,
        optimisation.early_stopping_min_delta,
        optimisation.early_stopping_min_epochs,
    )
    training = Training(
        stepper,
        plan,
        build_schedule(optimisation, len(batches)),
        batches,
        optimisation.epochs,
        optimisation.gradient_accumulation_steps,
        stopping,
        companions.evaluate,
        companions.interrupted,
    )
    weights = LearningWeights(backbone, plan)
    best = Best(keep=stopping.patience is not None)
    state = TrainingState(weights, OptimizerState(optimizer, backbone.module), scaler, Totals(numerics.device), best)
    return training, state


def build_schedule(optimisation: OptimisationSpec, batches: int) -> Schedule:
    """The rate as a function of the step, for epochs of so many batches."""
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


def _weights(spec: JobSpec, batches: Batches, numerics: Numerics) -> torch.Tensor | None:
    if spec.optimisation.class_weights == "none":
        return None
    dataset = batches.dataset
    targets = dataset.label_map.targets([dataset.reader.labels(index) for index in dataset.indices])
    return balanced_weights(targets, len(dataset.label_map)).to(numerics.device)


def _refuse_single_records(optimisation: OptimisationSpec, backbone: Backbone, plan: Plan) -> None:
    if optimisation.batch_size > 1:
        return
    apply_trainable(backbone, plan.phases[-1].trainable)
    if learns_batch_statistics(backbone.module):
        raise UserError(
            f"batch_size is 1, but {backbone.name} learns batch normalisation, which needs at least two records:"
            " choose batch_size=2 or more, or strategy=feature_extraction."
        )
