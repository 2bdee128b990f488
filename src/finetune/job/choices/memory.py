"""Fits the training of a job into the memory of its devices, by sharding and by activation checkpointing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from finetune.data.transforms.text import TextTransform
from finetune.distributed.sharding.memory_plan import (
    MEMORY_MODES,
    MemoryChoice,
    MemoryMode,
    ModelMemory,
    choose_memory_mode,
    least_memory_mode,
)
from finetune.distributed.sharding.sharded_model import ShardedModel
from finetune.errors import UserError
from finetune.job.prepare import PreparedJob, move_to_device
from finetune.models.backbone import Backbone, ImageInput, ModelInput, Outputs
from finetune.runtime.optional import optional
from finetune.strategies.freezing import apply_trainable
from finetune.training.kernels.cpu_attention import cpu_attention_kernels
from finetune.training.memory.activation_checkpointing import checkpoint_activations
from finetune.training.memory.activation_memory import measure_activations
from finetune.training.sharded import ShardedTraining

logger = logging.getLogger(__name__)

_MEASURED_RECORDS = (2, 4)
"""Records of the forward passes that measure activations; batch normalization needs two."""
_WORD = "the "


def choose_memory(job: PreparedJob) -> MemoryChoice:
    """Choose whether the model is sharded and activations are checkpointed; the same in all processes.

    Raises:
        UserError: the job cannot be sharded, as the user asks.
    """
    spec = job.spec.distributed
    plain: MemoryMode = "checkpointing" if spec.activation_checkpointing else "none"
    if spec.sharding == "none":
        return MemoryChoice(plain, "sharding=none")
    obstacle = _obstacle(job)
    if spec.sharding == "full":
        if obstacle:
            return MemoryChoice(plain, obstacle)
        if job.numerics.scaled:
            raise UserError(
                "sharding=full is not supported with precision=fp16: set precision=fp32, precision=bf16 on a newer GPU,"
                " or sharding=none."
            )
        return MemoryChoice("full+checkpointing" if spec.activation_checkpointing else "full", "sharding=full")
    if job.numerics.device.type != "cuda":
        return MemoryChoice(plain, "processes on CPUs share the memory of their host")
    memory_of_devices = job.world.all_gather(torch.cuda.get_device_properties(job.numerics.device).total_memory)
    choice = MemoryChoice(plain, "the memory of training could not be estimated")
    # Only the main process measures, so that all make the same choice.
    if job.world.is_main:
        with optional("Estimating the memory of training"):
            choice = choose_automatically(job, memory_of_devices)
    return job.world.broadcast(choice)


def choose_automatically(job: PreparedJob, memory_of_devices: list[int]) -> MemoryChoice:
    """Choose the fastest mode that fits into the devices, or the one that needs the least memory if none fits."""
    memory, shards = measure_memory(job), job.devices.count
    spec, exact_order = job.spec, job.spec.distributed.distributed_order == "exact"
    can_shard = not _obstacle(job) and not job.numerics.scaled and exact_order
    can_shard = can_shard and spec.strategy.name not in {"auto", "gradual"}  # they unfreeze layers later
    allowed = [
        mode
        for mode in MEMORY_MODES
        if (can_shard or not mode.startswith("full"))
        and ("checkpointing" in mode or not spec.distributed.activation_checkpointing)
        and (mode == "none" or not spec.run.compile)
    ]
    try:
        return choose_memory_mode(memory, memory_of_devices, shards, allowed)
    except UserError as error:
        # An estimate alone is no reason to fail.
        logger.warning("The job may run out of memory. %s", error)
        return MemoryChoice(least_memory_mode(memory, memory_of_devices, shards, allowed), "it needs the least memory")


def _obstacle(job: PreparedJob) -> str:
    """The reason why there is nothing to shard; empty if there is something."""
    if job.world.size == 1:
        return "a single process has nothing to share the parameters with"
    if len(job.plan.ever_trainable) == 1:
        return "only the head is trained"
    return ""


def measure_memory(job: PreparedJob) -> ModelMemory:
    """Count the parameters, and measure the activations of a pass by forward passes of a few records."""
    backbone, phase = job.backbone, job.plan.phases[-1]
    apply_trainable(backbone, phase.trainable)
    trainable = _TrainablePart(job)
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    groups = [group for group in backbone.layer_groups() if group.name in job.plan.ever_trainable]
    units = [sum(sizes[name] for name in group.parameters) for group in groups]
    roots = [module for group in groups for module in group.modules]
    few, more = (
        measure_activations(backbone.module, roots, partial(trainable.run_records, records))
        for records in (_inputs(job, count, backbone.expects.max_length) for count in _MEASURED_RECORDS)
    )
    records = -(-job.spec.optimization.batch_size // job.devices.count)
    activations = few.at(records, _MEASURED_RECORDS[0], more, _MEASURED_RECORDS[1])
    return ModelMemory(
        trainable=sum(units),
        frozen=sum(sizes.values()) - sum(units),
        largest_unit=max(units),
        activations=round(activations.stored),
        checkpointed_activations=round(activations.checkpointed),
    )


def use_activation_checkpointing(job: PreparedJob) -> None:
    """Checkpoint the activations of the trainable layers, if that was chosen."""
    if job.memory.checkpoints_activations:
        trainable = [group for group in job.backbone.layer_groups() if group.name in job.plan.ever_trainable]
        checkpoint_activations(
            [module for group in trainable for module in group.modules],
            lambda: cpu_attention_kernels(job.numerics.device),
        )


def shard_model(job: PreparedJob) -> ShardedTraining:
    """Shard the trainable layers over the processes, in place; frozen layers stay whole in each of them.

    The plan of the job has a single phase.
    """
    backbone, (phase,) = job.backbone, job.plan.phases
    apply_trainable(backbone, phase.trainable)
    # Splits the model by running it as a whole.
    job.input_provider.prepare_phase(phase)
    trainable = _TrainablePart(job)
    records = _inputs(job, 2)
    features = trainable.features(records)
    model = ShardedModel(
        backbone.module,
        [module for group in backbone.layer_groups() for module in group.modules],
        [lambda: backbone.forward(records), lambda: trainable.forward(features)],
        job.world,
        replicated=[parameter for parameter in backbone.module.parameters() if not parameter.requires_grad],
    )
    return ShardedTraining(model, records, features)


def whole_model(job: PreparedJob) -> Backbone:
    """Return the model of a sharded job as a whole; in processes other than the main one, the sharded one."""
    if job.sharded is None:
        return job.backbone
    state = job.sharded.model.full_state()
    if not job.world.is_main:
        return job.backbone
    backbone = job.build_again()
    backbone.module.load_state_dict(state)
    move_to_device(backbone, job.numerics)
    return backbone


def made_up_inputs(expects: ModelInput, records: int, tokens: int = 1) -> dict[str, Tensor]:
    """Return inputs of a model for made-up records, on the CPU.

    Args:
        expects: preprocessing of the model.
        records: number of records.
        tokens: minimum number of tokens of a text, at most the maximum length of the model.
    """
    if isinstance(expects, ImageInput):
        return {"pixels": torch.zeros(records, 3, expects.size, expects.size, dtype=torch.uint8)}
    transform = TextTransform(expects.tokenizer, expects.max_length)
    return transform.collate([transform((_WORD * tokens,), None)] * records)


def _inputs(job: PreparedJob, records: int, tokens: int = 1) -> dict[str, Tensor]:
    inputs = made_up_inputs(job.backbone.expects, records, tokens)
    return {name: tensor.to(job.numerics.device) for name, tensor in inputs.items()}


class _TrainablePart:
    """The layers that are trained in the last phase, after those that are frozen until then."""

    def __init__(self, job: PreparedJob) -> None:
        index = job.cache_plan.split_index(job.plan.phases[-1])
        self._split = job.backbone.split(index) if index else None
        self._numerics = job.numerics
        self.forward = job.backbone.forward if self._split is None else self._split.suffix

    def features(self, records: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Compute the inputs of these layers."""
        if self._split is None:
            return records
        with self._numerics.context():
            return self._split.prefix(records)

    def run_records(self, records: Mapping[str, Tensor]) -> Outputs:
        """Run these layers as in training."""
        features = self.features(records)
        with self._numerics.context(), cpu_attention_kernels(self._numerics.device):
            return self.forward(features)
