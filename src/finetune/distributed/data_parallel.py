"""Data parallelism over virtual devices: an optimizer step has the same bits for any number of processes."""
# Without `from __future__ import annotations`: DistributedDataParallel compares the annotations of communication hooks.

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # not in torch's stub
from torch.nn.parallel import DistributedDataParallel

from finetune.distributed.fixed_order import Block, FixedOrderSum, aligned_blocks, all_reduce_in_fixed_order
from finetune.distributed.shard_totals import ShardTotals
from finetune.distributed.virtual_devices import shards_of_rank
from finetune.distributed.world import World, lost_processes

Order = Literal["exact", "fast"]
Result = TypeVar("Result")
Forward = Callable[[Mapping[str, Tensor]], Result]
PassContext = Callable[[bool], AbstractContextManager[None]]
"""Takes whether a pass is the last one of its shard; returns the context of its forward and backward passes."""


class DataParallel(Generic[Result]):
    """Computes the shards of this process in order, and sums gradients and statistics over the shards of all processes.

    The gradients of a process's last shard are exchanged during its last backward pass, bucket by bucket, by a
    communication hook of DistributedDataParallel, unless the last shard of some process has no records. `ShardTotals`
    defines the statistics of batch normalization layers.

    Attributes:
        forward: Runs a forward pass within a step.
        shards: The shards of this process.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward[Result],
        virtual_devices: int,
        world: World,
        *,
        order: Order = "exact",
    ) -> None:
        """Initialize for the parameters of the model that require gradients and the layers in training mode now.

        Args:
            module: The model.
            forward: Runs the model, or its trainable part.
            virtual_devices: Number of shards per step; at least the number of processes.
            world: The processes; each of them creates the same object.
            order: Order of the sums over shards: `exact` gives the same bits for any number of processes; `fast` leaves
                the order to the backend's all-reduce.
        """
        self.forward = forward
        self._order = order
        self.shards = shards_of_rank(virtual_devices, world.size, world.rank)
        self._virtual_devices = virtual_devices
        self._world = world
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._positions = {id(parameter): position for position, parameter in enumerate(self._parameters)}
        self._totals = ShardTotals(module, virtual_devices, world)
        self._gradients = FixedOrderSum()
        self._stream: torch.cuda.Stream | None = None
        self._ddp: DistributedDataParallel | None = None
        if world.size > 1:
            self._ddp = DistributedDataParallel(
                # All processes have the same weights: they load the same files, and rank 0 sends checkpoints to all.
                _Module(self._parameters, forward),
                process_group=world.group,
                broadcast_buffers=False,
                init_sync=False,
            )
            self._ddp.register_comm_hook(None, self._reduce_bucket)
            # DistributedDataParallel assigns parameters to buckets again after its first backward pass. Jobs resume in
            # any step, and the order of NCCL's and gloo's sums depends on the place in a bucket: assign them once.
            self._ddp.reducer._push_all_rebuilt_params()
            self._ddp.reducer._rebuild_buckets()
            self.forward = self._ddp

    def step(self, passes: Sequence[int], run_shard: Callable[[int, PassContext], Tensor], totals: int) -> Tensor:
        """Compute a step's gradients, as if one process had computed all shards.

        Args:
            passes: Number of passes of each virtual device in this step, 0 without records; the same in all processes,
                and not all 0. Only `FullySharded` distinguishes numbers above 0.
            run_shard: Computes the forward and backward passes of a shard with records, each pair within a
                `PassContext`, and returns totals such as losses and counts, float64 `[totals]`.
            totals: Number of totals.

        Returns:
            The sums of the totals over all shards, float64 `[totals]`.
        """
        if self._virtual_devices == 1:
            return run_shard(0, _no_context)
        last_shards = [
            shards_of_rank(self._virtual_devices, self._world.size, rank)[-1] for rank in range(self._world.size)
        ]
        active = [number > 0 for number in passes]
        overlaps = self._ddp is not None and all(active[shard] for shard in last_shards)
        self._gradients = FixedOrderSum()
        self._totals.begin(active)
        for shard in self.shards:
            self._totals.begin_shard()
            exchanges = overlaps and shard == self.shards[-1]
            added = torch.zeros(totals, dtype=torch.float64, device=self._parameters[0].device)
            if active[shard]:
                added = run_shard(shard, self._context_of_passes(exchanges=exchanges))
            if not exchanges:
                self._gradients.add(Block(shard, 1), [_taken_gradient(parameter) for parameter in self._parameters])
            self._totals.end_shard(shard, added)
        if not overlaps:
            self._reduce_gradients()
        return self._totals.finish(totals)

    def close(self) -> None:
        """Release the buffers and hooks of the exchange; must not be used afterwards."""
        self._ddp = None
        # Otherwise the communication hook would keep this object, and this object the hook's owner.
        del self.forward

    def _context_of_passes(self, *, exchanges: bool) -> PassContext:
        ddp = self._ddp
        if ddp is None:
            return _no_context
        return lambda is_last: nullcontext() if exchanges and is_last else ddp.no_sync()

    def _reduce_bucket(self, _: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Communication hook: sum a bucket over the shards of all processes."""
        positions = [self._positions[id(parameter)] for parameter in bucket.parameters()]
        sums = FixedOrderSum()
        for block, tensors in zip(self._gradients.blocks, self._gradients.partial_sums, strict=True):
            sums.add(block, [_flattened([tensors[position] for position in positions])])
        sums.add(Block(self.shards[-1], 1), [bucket.buffer()])
        blocks = [tensors[0] for tensors in sums.partial_sums]
        if bucket.buffer().device.type == "cuda":
            return self._reduced_beside_backward(blocks)
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(self._reduced(blocks))
        return done

    def _reduced_beside_backward(self, blocks: Sequence[Tensor]) -> torch.futures.Future[Tensor]:
        """Reduce on a stream of its own, so that the backward pass goes on meanwhile."""
        device = blocks[0].device
        current = torch.cuda.current_stream(device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch
        self._stream.wait_stream(current)
        done: torch.futures.Future[Tensor] = torch.futures.Future(devices=[device])
        with torch.cuda.stream(self._stream):
            reduced = self._reduced(blocks)
            # Records an event on this stream, for which DistributedDataParallel lets the current stream wait.
            done.set_result(reduced)
        # Otherwise each stream could reuse the memory of a tensor that the other one still reads.
        for block in blocks:
            block.record_stream(self._stream)
        reduced.record_stream(current)
        return done

    def _reduce_gradients(self) -> None:
        """Sum the gradients of the own shards over all processes after the last backward pass."""
        flat = self._reduced([_flattened(tensors) for tensors in self._gradients.partial_sums])
        sizes = [parameter.numel() for parameter in self._parameters]
        for parameter, gradient in zip(self._parameters, torch.split(flat, sizes), strict=True):
            parameter.grad = gradient.as_strided(parameter.size(), parameter.stride())

    def _reduced(self, blocks: Sequence[Tensor]) -> Tensor:
        if self._order == "exact" or self._world.size == 1:
            return all_reduce_in_fixed_order(blocks, self._virtual_devices, self._world)
        total = FixedOrderSum()
        for block, tensor in zip(aligned_blocks(self.shards), blocks, strict=True):
            total.add(block, [tensor])
        reduced = total.total()[0]
        with lost_processes():
            torch.distributed.all_reduce(reduced, group=self._world.group)
        return reduced


class _Module(nn.Module):
    """Module whose forward pass is a given function, as DistributedDataParallel calls modules only.

    Its parameters are in reverse order, about that in which their gradients are computed and exchanged.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], forward: Forward[Result]) -> None:
        super().__init__()
        self.reversed_parameters = nn.ParameterList(reversed(parameters))
        self._forward = forward

    def forward(self, inputs: Mapping[str, Tensor]) -> object:
        return self._forward(inputs)


def _no_context(is_last: bool) -> AbstractContextManager[None]:
    del is_last
    return nullcontext()


def _taken_gradient(parameter: nn.Parameter) -> Tensor:
    """Remove and return the gradient of a parameter; zeros if the shard did not use it."""
    gradient = parameter.grad
    parameter.grad = None
    if gradient is None:
        return torch.zeros_like(parameter)
    # In the memory layout of the parameter, such as channels-last, as in DDP's buckets and as fused optimizers require.
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the elements of dense tensors in the order of their memory."""
    return torch.cat([tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors])
