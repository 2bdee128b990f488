"""Optimizer step: forward and backward passes over accumulated batches or their shards, then one update."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from finetune.data.loading.batches import Batch
from finetune.distributed.data_parallel import DataParallel, PassContext
from finetune.distributed.gradient_norm import clip_grad_norm
from finetune.distributed.sharding.fully_sharded import FullySharded
from finetune.distributed.virtual_devices import shard_seed
from finetune.models.backbone import Backbone, Outputs
from finetune.monitoring.timing import Timing
from finetune.runtime.precision import Numerics
from finetune.training.kernels.cpu_attention import cpu_attention_kernels
from finetune.training.losses import Loss
from finetune.training.mixing import Mixing, mixing_randomness
from finetune.training.probe import NoProbe, Probe
from finetune.training.saved_state.state import EpochTotals

Forward = Callable[[Mapping[str, Tensor]], Outputs]
"""The part of the model that a batch's inputs enter."""
Parallel = DataParallel[Outputs] | FullySharded[Outputs]
"""Computes shards in several processes."""


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random number generators of the host and of the model's device.

    `torch.manual_seed` also handles absent devices and records a stack trace for each, which costs 0.1 ms per step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)


@dataclass(frozen=True, slots=True)
class TrainStep:
    """Objects shared by all training steps.

    Attributes:
        clip_norm: Maximum norm of all gradients together, or `None`.
        mixing: Mixes the records of each batch.
        timing: Time spent by part of the step.
        probe: Inspects a sample of the steps.
    """

    backbone: Backbone
    optimizer: Optimizer
    scaler: GradScaler
    loss: Loss
    numerics: Numerics
    seed: int
    clip_norm: float | None = None
    mixing: Mixing = field(default_factory=Mixing)
    timing: Timing = field(default_factory=Timing)
    probe: Probe = field(default_factory=NoProbe)

    def run(self, batches: Sequence[Batch], step: int, totals: EpochTotals, forward: Forward) -> Tensor:
        """Update the model once by the mean loss over all records of the batches.

        A batch of one record is skipped if batch normalization is trained, which is undefined for it; batches lose
        records only if these cannot be decoded.

        Args:
            batches: Batches of the step.
            step: Number of the step in the job.
            totals: Totals of the epoch.
            forward: The part of the model that the batches enter.

        Returns:
            The mean loss, float32, 0-d, on the device, without synchronizing. NaN if no record was left.
        """
        batches = self.trained_batches(batches)
        records = sum(len(batch.targets) for batch in batches)
        if not records:
            return torch.full((), torch.nan)
        seed_generators(shard_seed(self.seed, step), self.numerics.device)
        self.probe.begin(step)
        mean = torch.zeros((), device=self.numerics.device)
        randomness = mixing_randomness(self.seed, step)
        for batch in batches:
            mean += self._backward(batch, records, totals, forward, randomness)
        with self.timing.device("update"):
            self._update(torch.nn.utils.clip_grad_norm_)
        return mean

    def run_shards(
        self,
        batches: Mapping[int, Sequence[Batch]],
        records: Sequence[int],
        passes: Sequence[int],
        step: int,
        totals: EpochTotals,
        parallel: Parallel,
    ) -> Tensor:
        """Update the model once, as `run` does, by the mean loss over all records of all shards.

        Args:
            batches: Batches of the step by shard, for the shards of this process.
            records: Number of trained records of each shard, of all processes.
            passes: Number of trained batches of each shard, of all processes.
            step: Number of the step in the job.
            totals: Totals of the epoch, over all processes.
            parallel: Computes the sums over all processes.

        Returns:
            The mean loss over all shards, float32, 0-d, on the device, without synchronizing. NaN without records.
        """
        if not sum(records):
            return torch.full((), torch.nan)
        self.probe.begin(step)

        def run_shard(shard: int, context: PassContext) -> Tensor:
            seed_generators(shard_seed(self.seed, step, shard), self.numerics.device)
            own = EpochTotals(self.numerics.device, totals.task)
            trained = self.trained_batches(batches[shard])
            randomness = mixing_randomness(self.seed, step, shard)
            for batch in trained:
                with context(batch is trained[-1]):
                    self._backward(batch, sum(records), own, parallel.forward, randomness)
            return own.sums()

        sums = parallel.step(passes, run_shard, totals.size)
        with self.timing.device("update"):
            self._update(clip_grad_norm)
        totals.add_sums(sums, sum(records))
        return (sums[0] / sum(records)).float()

    def made_up_loss(self, inputs: Mapping[str, Tensor], forward: Forward) -> Tensor:
        """Return a loss of made-up records, 0-d, whose gradients reach the same parameters as those of a batch."""
        with self.numerics.context(), cpu_attention_kernels(self.numerics.device):
            outputs = forward(inputs)
        all_logits = [outputs.logits, *(logits for _, logits in outputs.auxiliary)]
        return torch.stack([logits.float().sum() for logits in all_logits]).sum()

    def trained_batches(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches that a step uses: without empty ones, and those that batch normalization refuses."""
        least = (
            2 if any(len(batch.targets) == 1 for batch in batches) and trains_batch_norm(self.backbone.module) else 1
        )
        return [batch for batch in batches if len(batch.targets) >= least]

    def _backward(
        self, batch: Batch, records: int, totals: EpochTotals, forward: Forward, randomness: random.Random
    ) -> Tensor:
        with self.timing.device("forward"):
            inputs, targets = to_device(batch, self.numerics.device)
            if self.mixing.is_active:
                inputs, targets = self.mixing(inputs, self.loss.task.soft_targets(targets), randomness)
            with (
                self.numerics.context(),
                # Faster dropout and attention on CPUs. To use PyTorch's own, delete this line.
                cpu_attention_kernels(self.numerics.device),
            ):
                outputs = forward(inputs)
            batch_loss = self.loss(outputs, targets)
            step_loss = batch_loss / records
        with self.timing.device("backward"):
            self.scaler.scale(step_loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        totals.add(batch_loss.detach(), outputs.logits.detach(), targets)
        return step_loss.detach()

    def _update(self, clip: Callable[[list[nn.Parameter], float], object]) -> None:
        # Otherwise fused optimizers and external observers such as smdebug's hook would see scaled gradients.
        self.scaler.unscale_(self.optimizer)
        if self.probe.is_sampling:
            self.probe.after_backward()
        if self.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            clip(parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def trains_batch_norm(module: nn.Module) -> bool:
    """Whether the model has batch normalization in training mode, which fails for a single record."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in module.modules())


def to_device(batch: Batch, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Copy inputs and targets to the device, asynchronously from pinned memory."""
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    return inputs, batch.targets.to(device, non_blocking=True)
