"""Sharded training over virtual devices: parameters, gradients and optimizer state are divided among the processes.

An optimizer step has the same bits as with `DataParallel`, for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple

import torch
import torch.distributed
from torch import Tensor

# The base class of communications is public, but its module is not (PyTorch 2.11).
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter

from finetune.distributed.data_parallel import Forward, PassContext, Result
from finetune.distributed.fixed_order import Block, FixedOrderSum
from finetune.distributed.shard_totals import ShardTotals
from finetune.distributed.sharding.sharded_model import ShardedModel
from finetune.distributed.virtual_devices import shards_of_rank
from finetune.distributed.world import World, lost_processes

IdlePass = Callable[[Forward[Result]], Tensor]
"""Computes the loss of some made-up records with the given forward function."""


class FullySharded(Generic[Result]):
    """Computes the shards of this process in order, with parameters, gradients and optimizer state sharded.

    Gradients are summed over the shards of all processes after each pass of a unit, in the order of `FixedOrderSum`.
    All processes make the same number of passes, as every pass exchanges parameters: a process with fewer shards or
    records than others makes further passes on made-up records, whose gradients are not used.

    Attributes:
        shards: The shards of this process.
    """

    def __init__(
        self,
        model: ShardedModel,
        forward: Forward[Result],
        virtual_devices: int,
        world: World,
        idle_pass: IdlePass[Result],
    ) -> None:
        """Initialize for the parameters of the model that require gradients and the layers in training mode now.

        Args:
            model: The model.
            forward: Runs the model, or its trainable part.
            virtual_devices: Number of shards per step; at least the number of processes.
            world: The processes; each of them creates the same object.
            idle_pass: Computes the loss of at least two made-up records; the backward pass must reach the same
                parameters as that of real ones.

        Raises:
            ValueError: A process has no shard.
        """
        if virtual_devices < world.size:
            raise ValueError(f"{world.size} processes share {virtual_devices} virtual devices: each needs at least one")
        self.shards = shards_of_rank(virtual_devices, world.size, world.rank)
        self._model = model
        self._forward = forward
        self._virtual_devices = virtual_devices
        self._world = world
        self._idle_pass = idle_pass
        self._parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
        self._totals = ShardTotals(model.module, virtual_devices, world)
        self._schedule = _Schedule(virtual_devices, world.size)
        for unit in model.units:
            unit.set_custom_reduce_scatter(_FixedOrderReduceScatter(self._schedule))
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(enable=True)

    def forward(self, inputs: Mapping[str, Tensor]) -> Result:
        """Run a forward pass within a step, or one without gradients, of which all processes make the same number."""
        return self._model.run(self._forward, inputs)

    def step(self, passes: Sequence[int], run_shard: Callable[[int, PassContext], Tensor], totals: int) -> Tensor:
        """Compute a step's gradients, as if one process had computed all shards; see `DataParallel.step`.

        Args:
            passes: Number of passes of each virtual device in this step, 0 without records; the same in all processes,
                and not all 0.
            run_shard: Computes the forward and backward passes of a shard with records, each pair within a
                `PassContext`, and returns totals such as losses and counts, float64 `[totals]`.
            totals: Number of totals.

        Returns:
            The sums of the totals over all shards, float64 `[totals]`.

        Raises:
            RuntimeError: `run_shard` makes another number of passes than announced.
        """
        self._schedule.begin(passes)
        self._totals.begin([number > 0 for number in passes])
        for shard in self.shards:
            self._totals.begin_shard()
            added = torch.zeros(totals, dtype=torch.float64, device=self._parameters[0].device)
            if passes[shard]:
                expected = self._schedule.position + passes[shard]
                added = run_shard(shard, self._pass)
                if self._schedule.position != expected:
                    raise RuntimeError(f"shard {shard} made fewer than the {passes[shard]} passes announced")
            self._totals.end_shard(shard, added)
        while not self._schedule.is_finished:
            with self._pass(is_last=True):
                self._idle_pass(self.forward).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        for parameter in self._parameters:
            if parameter.grad is None:
                # As in `DataParallel`, where parameters without a gradient have a zero gradient.
                parameter.grad = torch.zeros_like(parameter)
        return self._totals.finish(totals)

    def close(self) -> None:
        """Do nothing, as the model stays sharded for the next phase."""

    @contextmanager
    def _pass(self, is_last: bool) -> Iterator[None]:
        del is_last
        self._schedule.next()
        yield


class _Pass(NamedTuple):
    """A pass of a process.

    Attributes:
        shard: The shard that the pass belongs to; -1 for a pass on made-up records.
        completes: Whether it is the last pass of the shard.
    """

    shard: int
    completes: bool


_IDLE = _Pass(-1, completes=False)


@dataclass(slots=True)
class _Schedule:
    """Order of the passes of all processes in a step.

    Attributes:
        virtual_devices: Number of shards per step.
        world_size: Number of processes.
        position: Number of passes that this process has begun.
    """

    virtual_devices: int
    world_size: int
    position: int = 0
    _rounds: list[list[_Pass]] = field(default_factory=list)

    def begin(self, passes: Sequence[int]) -> None:
        """Start a step with the given number of passes of each shard."""
        of_ranks = [
            [
                _Pass(shard, completes=number == passes[shard])
                for shard in shards_of_rank(self.virtual_devices, self.world_size, rank)
                for number in range(1, passes[shard] + 1)
            ]
            for rank in range(self.world_size)
        ]
        longest = max(map(len, of_ranks))
        padded = [own + [_IDLE] * (longest - len(own)) for own in of_ranks]
        self._rounds = [[own[number] for own in padded] for number in range(longest)]
        self.position = 0

    def next(self) -> None:
        """Start the next pass.

        Raises:
            RuntimeError: All announced passes were made.
        """
        if self.is_finished:
            raise RuntimeError(f"a process makes more than the {self.position} passes announced")
        self.position += 1

    @property
    def is_finished(self) -> bool:
        """Whether the last pass of the step has begun."""
        return self.position == len(self._rounds)

    @property
    def current(self) -> list[_Pass]:
        """The current pass of each process."""
        return self._rounds[self.position - 1]


class _FixedOrderReduceScatter(ReduceScatter):
    """Sums the gradients of a unit over the shards of all processes in the fixed order.

    FSDP2 adds the outputs of all passes of a step, so the last pass returns the sum and all others return zeros.
    """

    def __init__(self, schedule: _Schedule) -> None:
        self._schedule = schedule
        self._of_ranks = [_ShardSums(schedule, rank) for rank in range(schedule.world_size)]

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a buffer."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: torch.distributed.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        """Exchange the gradients of a pass, and sum those of this process's rows."""
        del op, async_op
        received = torch.empty_like(input_tensor)
        with lost_processes():
            torch.distributed.all_to_all_single(received, input_tensor, group=group)
        is_final = self._schedule.is_finished
        for sums, current, part in zip(
            self._of_ranks, self._schedule.current, received.view(len(self._of_ranks), -1), strict=True
        ):
            # Later passes need a copy, since a view would keep the parts of all processes in memory.
            sums.add(current, part if is_final else part.clone())
        if not is_final:
            output_tensor.fill_(-0.0)  # the neutral element: adding +0.0 changes the sign of -0.0
            return
        total = FixedOrderSum()
        for sums in self._of_ranks:
            for block, tensors in sums.take(output_tensor):
                total.add(block, tensors)
        output_tensor.copy_(total.total()[0])


class _ShardSums:
    """Sums of the gradients of a process's shards, of which each is the sum of its passes."""

    def __init__(self, schedule: _Schedule, rank: int) -> None:
        self._shards = shards_of_rank(schedule.virtual_devices, schedule.world_size, rank)
        self._next = self._shards.start
        self._sums = FixedOrderSum()
        self._running: Tensor | None = None

    def add(self, current: _Pass, gradient: Tensor) -> None:
        """Add the gradient of a pass, which may be overwritten."""
        if current.shard < 0:
            return
        self._running = gradient if self._running is None else self._running.add_(gradient)
        if current.completes:
            self._add_zeros(current.shard, gradient)
            self._sums.add(Block(current.shard, 1), [self._running])
            self._next, self._running = current.shard + 1, None

    def take(self, example: Tensor) -> list[tuple[Block, list[Tensor]]]:
        """Return the sums of all shards as aligned blocks and start over."""
        self._add_zeros(self._shards.stop, example)
        blocks = list(zip(self._sums.blocks, self._sums.partial_sums, strict=True))
        self._sums, self._next = FixedOrderSum(), self._shards.start
        return blocks

    def _add_zeros(self, stop: int, example: Tensor) -> None:
        """Add zeros for shards without records, as `DataParallel` does."""
        for shard in range(self._next, stop):
            self._sums.add(Block(shard, 1), [torch.zeros_like(example)])
        self._next = stop
