"""The steps of a phase: on whole batches, or on shards of batches that all processes of the job compute together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.distributed.shares import ReplicatedBatches, ShardsOfBatches
from finetune.distributed.virtual_devices import VirtualDevices
from finetune.distributed.world import World
from finetune.training.saved_state.state import EpochTotals
from finetune.training.step import Forward, Parallel, TrainStep

_AGREEMENT_STEPS = 16
"""Steps between agreements of processes that do not wait for each other otherwise."""


class Agreement(NamedTuple):
    """What the processes of a job agree on before each step.

    Attributes:
        stop: Whether any process is to stop, so that all of them stop before this step.
        bad_records: Number of bad records found since the last agreement, over all processes.
        ended: Whether no process has batches left. Hosts with fewer records than others take part in the remaining
            steps without records.
        marks: Position of each host in its stream; none if the processes did not exchange them.
    """

    stop: bool
    bad_records: int
    ended: bool
    marks: tuple[tuple[int, int], ...] = ()


class Situation(NamedTuple):
    """What a process tells the others before each step.

    Attributes:
        interrupted: Whether this process is to stop.
        bad_records: Number of bad records that only this process knows.
        mark: Number and checksum of the records of a stream that this host has read; zeros without a stream.
    """

    interrupted: bool
    bad_records: int
    mark: tuple[int, int] = (0, 0)


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

    @property
    def draws_in_lockstep(self) -> bool:
        """Whether all processes draw batches together, so that one that is to stop draws them until all agree."""
        ...

    def agree(self, group: Sequence[Batch], step: int, own: Situation) -> Agreement:
        """Agree with the other processes; called by all of them before each step and at the end of an epoch.

        Args:
            group: Batches of the step; none at the end of the epoch, or if this process is interrupted.
            step: Number of the step in the job.
            own: Situation of this process.

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

    def __init__(
        self, stepper: TrainStep, forward: Forward, world: World, accumulation: int, *, in_lockstep: bool = False
    ) -> None:
        """Initialize for the part of the model that the batches enter.

        Args:
            stepper: The step.
            forward: The part of the model that the batches enter.
            world: The processes of the job.
            accumulation: Batches per step.
            in_lockstep: Whether the processes agree before every step, since their batches come from exchanges.
        """
        self.share: Share = WHOLE_BATCHES if world.size == 1 else ReplicatedBatches(world)
        self.batches_per_step = accumulation
        self.draws_in_lockstep = world.size > 1
        self._stepper = stepper
        self._forward = forward
        self._world = world
        self._period = 1 if in_lockstep or world.size == 1 else _AGREEMENT_STEPS

    def agree(self, group: Sequence[Batch], step: int, own: Situation) -> Agreement:
        """Agree in some of the steps, the same in all processes."""
        if group and step % self._period:
            return Agreement(stop=False, bad_records=0, ended=False)
        return _agree(self._world, group, own, [])[0]

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
        parallel: Parallel,
        world: World,
        accumulation: int,
        devices: VirtualDevices,
    ) -> None:
        """Initialize for the parameters that are trainable now.

        Args:
            stepper: The step.
            parallel: Computes the shards, with the part of the model that the batches enter.
            world: The processes of the job.
            accumulation: Batches per step.
            devices: The virtual devices, at least as many as processes.
        """
        share = ShardsOfBatches(devices.count, world, devices.minimum)
        self.share: Share = share
        self.draws_in_lockstep = False
        self.batches_per_step = accumulation * len(share.shards)
        self._shards = share.shards
        self._stepper = stepper
        self._world = world
        self._records = [0] * devices.count
        self._passes = [0] * devices.count
        self._parallel = parallel

    def agree(self, group: Sequence[Batch], step: int, own: Situation) -> Agreement:
        """Agree, and exchange the numbers of records and of passes of every shard."""
        del step
        records, passes = [0] * len(self._records), [0] * len(self._passes)
        for shard, batches in self._by_shard(group).items():
            trained = self._stepper.trained_batches(batches)
            records[shard], passes[shard] = sum(len(batch.targets) for batch in trained), len(trained)
        agreement, sums = _agree(self._world, group, own, [*records, *passes])
        self._records, self._passes = sums[: len(records)], sums[len(records) :]
        return agreement

    def run(self, group: Sequence[Batch], step: int, totals: EpochTotals) -> Tensor:
        """Update the model."""
        shards = self._by_shard(group)
        return self._stepper.run_shards(shards, self._records, self._passes, step, totals, self._parallel)

    def close(self) -> None:
        """Release the buffers and hooks of the gradient exchange."""
        self._parallel.close()

    def _by_shard(self, group: Sequence[Batch]) -> dict[int, list[Batch]]:
        count = len(self._shards)
        return {shard: list(group[index::count]) for index, shard in enumerate(self._shards)}


def _agree(world: World, group: Sequence[Batch], own: Situation, counts: list[int]) -> tuple[Agreement, list[int]]:
    """Exchange the situations of all processes, and the sums of counts, in one message."""
    marks = [0] * (2 * world.hosts if world.hosts > 1 else 0)
    if marks and not world.local_rank:
        marks[2 * world.host : 2 * world.host + 2] = own.mark
    stopping, bad, groups, *sums = world.sum_integers(
        [int(own.interrupted), own.bad_records, int(bool(group)), *marks, *counts]
    )
    summed = sums[: len(marks)]
    agreement = Agreement(stopping > 0, bad, not groups, tuple(zip(summed[::2], summed[1::2], strict=True)))
    return agreement, sums[len(marks) :]
