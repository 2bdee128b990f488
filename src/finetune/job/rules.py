"""What the advice of the rules needs to know of a job."""

from __future__ import annotations

import numpy as np
from torch import nn

from finetune.evaluation.metrics import constant_answer
from finetune.features.plan import Frozen
from finetune.job.inputs import Inputs, class_counts
from finetune.job.prepare import Prepared
from finetune.models.backbone import ImageInput
from finetune.models.heads import DropoutLinear
from finetune.monitoring.rules.setup import Setup
from finetune.strategies.presets import Network, rates_in_effect


def setup_of(job: Prepared) -> Setup:
    """The hyperparameters in effect, and what the job is."""
    spec, inputs, expects = job.spec, job.inputs, job.backbone.expects
    optimisation, images = spec.optimisation, isinstance(expects, ImageInput)
    network = Network(job.plan.groups, inputs.task, new_head=not job.backbone.weights.kept_head)
    frozen = Frozen(job.backbone, job.plan, spec, job.numerics)
    last = job.plan.phase(optimisation.epochs - 1)
    varies = images and any(frozen.varies(phase) for phase in job.plan.phases if phase.trainable)
    return Setup(
        strategy=spec.strategy.name,
        epochs=optimisation.epochs,
        rates=rates_in_effect(spec.strategy, optimisation, network),
        rates_given=optimisation.learning_rate is not None or optimisation.head_learning_rate is not None,
        trains_all=set(last.trainable) == set(job.plan.groups),
        images=images,
        multi_label=inputs.labels.multi_label,
        validates=inputs.validation is not None or "validation" in inputs.streams,
        piped="train" in inputs.streams,
        augmentation=spec.data.augmentation if varies else "none",
        drops=_has_dropout(job.backbone.module),
        patience=optimisation.early_stopping_patience,
        weighs_classes=optimisation.class_weights == "balanced",
        clip_norm=optimisation.gradient_clip_norm,
        weight_decay=optimisation.weight_decay,
        batch_size=optimisation.batch_size,
        workers=spec.run.workers,
        precision=job.numerics.name,
        max_length=None if isinstance(expects, ImageInput) else expects.max_length,
    )


def training_counts(inputs: Inputs) -> dict[str, int]:
    """Training records of every class; empty where they are unknown, as of a stream that was not counted."""
    stream = inputs.streams.get("train")
    if stream is not None:
        return dict(zip(inputs.labels.names, stream.class_counts or (), strict=False))
    return class_counts(inputs.train, inputs.labels) if inputs.train else {}


def guess_of(inputs: Inputs, counts: dict[str, int]) -> float:
    """Score of the best constant answer on the training records, as far as their classes are counted."""
    if not any(counts.values()):
        return 1 / max(1, len(inputs.labels))
    if not inputs.labels.multi_label:
        return max(counts.values()) / sum(counts.values())
    stream = inputs.streams.get("train")
    records = stream.count if stream is not None else len(inputs.train.indices) if inputs.train else None
    return constant_answer(np.array(list(counts.values())), records or max(counts.values()))[0]


def _has_dropout(module: nn.Module) -> bool:
    layers = [one for one in module.modules() if isinstance(one, nn.Dropout | DropoutLinear)]
    return any(layer.p > 0 for layer in layers)
