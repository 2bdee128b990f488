"""The steps of a phase: on whole batches, or on shards of batches that all processes of the job compute together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.distributed.data_parallel import DataParallel, Order
from finetune.distributed.shares import ShardsOfBatches
from finetune.distributed.virtual_devices import VirtualDevices
from finetune.distributed.world import World
from finetune.models.backbone import Outputs
from finetune.training.state import EpochTotals
from finetune.training.step import Forward, TrainStep

_AGREEMENT_STEPS = 16
"""Steps between agreements of processes that do not wait for each other otherwise."""


class Agreement(NamedTuple):
    """What the processes of a job agree on before each step.

    Attributes:
        stop: Whether any process is to stop, so that all of them stop before this step.
        bad_records: Number of bad records found since the last agreement, over all processes.
    """

    stop: bool
    bad_records: int


class Steps(Protocol):
    """The steps of a phase."""

    @property
    def share(self) -> Share:
        """The share of this process in the batches."""
        ...

    @property
    def batches_per_step(self) -> int:
        """Number of batches, or of their shards in this process, per step."""
        ...

    def agree(self, group: Sequence[Batch], step: int, *, interrupted: bool, bad_records: int) -> Agreement:
        """Agree with the other processes; called by all of them before each step and at the end of an epoch.

        Args:
            group: Batches of the step; none at the end of the epoch, or if this process is interrupted.
            step: Number of the step in the job.
            interrupted: Whether this process is to stop.
            bad_records: Number of bad records that only this process knows.

        Raises:
            ProcessLostError: Another process has ended.
        """
        ...

    def run(self, group: Sequence[Batch], step: int, totals: EpochTotals) -> Tensor:
        """Update the model by the batches given to `agree`; return the mean loss, 0-d, on the device."""
        ...

    def close(self) -> None:
        """Release memory and hooks."""
        ...


class WholeSteps:
    """Steps on whole batches; several processes all compute the same."""

    def __init__(self, stepper: TrainStep, forward: Forward, world: World, accumulation: int) -> None:
        """Initialize for the part of the model that the batches enter, and `accumulation` batches per step."""
        self.share: Share = WHOLE_BATCHES
        self.batches_per_step = accumulation
        self._stepper = stepper
        self._forward = forward
        self._world = world

    def agree(self, group: Sequence[Batch], step: int, *, interrupted: bool, bad_records: int) -> Agreement:
        """Agree in some of the steps.

        Processes need not stop at the same step, since the state of the main process is the one that is saved.
        """
        if group and not interrupted and step % _AGREEMENT_STEPS:
            return Agreement(stop=False, bad_records=0)
        stopping, bad = self._world.sum_integers([int(interrupted), bad_records])
        return Agreement(stopping > 0, bad)

    def run(self, group: Sequence[Batch], step: int, totals: EpochTotals) -> Tensor:
        """Update the model."""
        return self._stepper.run(group, step, totals, self._forward)

    def close(self) -> None:
        """Do nothing."""


class ShardedSteps:
    """Steps on shards, one for each virtual device; the sums over all shards do not depend on the processes."""

    def __init__(
        self,
        stepper: TrainStep,
        forward: Forward,
        world: World,
        accumulation: int,
        devices: VirtualDevices,
        order: Order,
    ) -> None:
        """Initialize for the parameters that are trainable now.

        Args:
            stepper: The step.
            forward: The part of the model that the batches enter.
            world: The processes of the job.
            accumulation: Batches per step.
            devices: The virtual devices, at least as many as processes.
            order: Order of the sums over shards.
        """
        share = ShardsOfBatches(devices.count, world, devices.minimum)
        self.share: Share = share
        self.batches_per_step = accumulation * len(share.shards)
        self._shards = share.shards
        self._stepper = stepper
        self._world = world
        self._records = [0] * devices.count
        self._parallel: DataParallel[Outputs] = DataParallel(
            stepper.backbone.module, forward, devices.count, world, order=order
        )

    def agree(self, group: Sequence[Batch], step: int, *, interrupted: bool, bad_records: int) -> Agreement:
        """Agree, and exchange the number of records of every shard."""
        del step
        counts = [0] * len(self._records)
        for shard, batches in self._by_shard(group).items():
            counts[shard] = sum(len(batch.targets) for batch in self._stepper.trained_batches(batches))
        stopping, bad, *self._records = self._world.sum_integers([int(interrupted), bad_records, *counts])
        return Agreement(stopping > 0, bad)

    def run(self, group: Sequence[Batch], step: int, totals: EpochTotals) -> Tensor:
        """Update the model."""
        return self._stepper.run_shards(self._by_shard(group), self._records, step, totals, self._parallel)

    def close(self) -> None:
        """Release the buffers and hooks of the gradient exchange."""
        self._parallel.close()

    def _by_shard(self, group: Sequence[Batch]) -> dict[int, list[Batch]]:
        count = len(self._shards)
        return {shard: list(group[index::count]) for index, shard in enumerate(self._shards)}
