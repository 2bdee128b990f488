"""Totals and batch normalization statistics of the shards of a step, summed over all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.distributed.fixed_order import Block, FixedOrderSum, all_reduce_in_fixed_order
from finetune.distributed.world import World


class ShardTotals:
    """Sums the totals of all shards of a step, and averages the running statistics of batch normalization over them.

    Each shard starts from the running statistics that batch normalization layers had before the step; the new
    statistics are the mean over the shards with records.
    """

    def __init__(self, module: nn.Module, virtual_devices: int, world: World) -> None:
        """Initialize for the batch normalization layers in training mode now.

        Args:
            module: The model.
            virtual_devices: Number of shards per step.
            world: The processes, each of which calls the methods in the same order for its own shards.
        """
        self._batch_norms = [layer for layer in module.modules() if _tracks_statistics(layer)]
        self._virtual_devices = virtual_devices
        self._world = world
        self._active: Sequence[bool] = ()
        self._before: list[Tensor] = []
        self._sums = FixedOrderSum()

    def begin(self, active: Sequence[bool]) -> None:
        """Start a step.

        Args:
            active: Whether each of the virtual devices has records in this step.
        """
        self._active = active
        self._before = [buffer.clone() for buffer in (*self._statistics(), *self._counters())]
        self._sums = FixedOrderSum()

    def begin_shard(self) -> None:
        """Restore the statistics from before the step."""
        for buffer, value in zip((*self._statistics(), *self._counters()), self._before, strict=True):
            buffer.copy_(value)

    def end_shard(self, shard: int, totals: Tensor) -> None:
        """Add the totals of a shard, float64 `[totals]`, and its statistics."""
        statistics = [(buffer.double() * self._active[shard]).flatten() for buffer in self._statistics()]
        self._sums.add(Block(shard, 1), [torch.cat([totals, *statistics])])

    def finish(self, totals: int) -> Tensor:
        """Set the statistics after the step and return the sums of the totals over all shards, float64 `[totals]`."""
        blocks = [tensors[0] for tensors in self._sums.partial_sums]
        summed = all_reduce_in_fixed_order(blocks, self._virtual_devices, self._world)
        statistics, counters = self._statistics(), self._counters()
        means = torch.split(summed[totals:] / sum(self._active), [buffer.numel() for buffer in statistics])
        for buffer, mean in zip(statistics, means if statistics else (), strict=True):
            buffer.copy_(mean.view_as(buffer))
        # A step counts as one batch, however many shards it has.
        for counter, value in zip(counters, self._before[len(statistics) :], strict=True):
            counter.copy_(value + 1)
        return summed[:totals]

    def _statistics(self) -> list[Tensor]:
        return [layer.get_buffer(name) for layer in self._batch_norms for name in ("running_mean", "running_var")]

    def _counters(self) -> list[Tensor]:
        return [layer.get_buffer("num_batches_tracked") for layer in self._batch_norms]


def _tracks_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats
