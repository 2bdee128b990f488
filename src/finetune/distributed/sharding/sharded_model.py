"""A model whose parameters are sharded over all processes by PyTorch's FSDP2, one unit per module of a layer group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

# The base class of communications is public, but its module is not (PyTorch 2.11).
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather

from finetune.distributed.sharding.full_state import full_tensors
from finetune.distributed.world import World, lost_processes

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class ShardedModel:
    """Shards the parameters of a model over all processes, in place; the names of its parameters do not change.

    Parameters are `DTensor`s sharded by rows, and whole only while their unit runs. A unit is a module of a layer group
    that is called once per forward pass and shares no parameter with others; all other parameters, such as tied weights
    and those that are read without calling their module, belong to the unit of the whole model, which stays whole from
    its forward pass to the end of the backward pass. Frozen modules are units as well, without gradients.

    An optimizer must be created afterwards. As every forward and backward pass exchanges parameters, all processes must
    make the same number of passes.

    Attributes:
        units: The modules that are sharded on their own, and the whole model.
    """

    def __init__(
        self,
        module: nn.Module,
        roots: Sequence[nn.Module],
        run_examples: Sequence[Callable[[], object]],
        world: World,
        *,
        replicated: Collection[nn.Parameter] = (),
    ) -> None:
        """Shard the parameters over the processes.

        Args:
            module: The model, with the same weights in all processes.
            roots: Roots of disjoint subtrees, such as the modules of all layer groups.
            run_examples: Run forward passes of the whole model, to find the modules that each of them calls once.
            world: The processes; each of them creates the same object.
            replicated: Frozen parameters that remain whole in each process, such as those of layers whose outputs are
                cached.

        Raises:
            ValueError: There is a single process, or a replicated parameter requires a gradient.
        """
        if world.size == 1:
            raise ValueError("a single process has nothing to shard its parameters with")
        if any(parameter.requires_grad for parameter in replicated):
            raise ValueError("replicated parameters must be frozen, since their gradients are not summed")
        units = _called_once(module, _units(roots, set(replicated)), run_examples)
        _use_contiguous_parameters(module, set(replicated))
        self.module = module
        self._root = _Root(module)
        mesh = _mesh(world, next(module.parameters()).device.type)
        self.units: list[FSDPModule] = [
            fully_shard(unit, mesh=mesh, ignored_params=set(replicated)) for unit in (*units, self._root)
        ]
        for unit in self.units:
            unit.set_custom_all_gather(_ReportingAllGather())
        # FSDP2 initializes its units in the first call of the root, which must precede the first call of any unit.
        self._root(_return, None)
        self.reshard()

    def run(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Run the model or a part of it, with or without gradients, in a function that calls its modules."""
        result: Result
        result, _ = self._root(function, argument)
        if not torch.is_grad_enabled():
            self.reshard()
        return result

    def reshard(self) -> None:
        """Free the whole parameters of all units outside of passes."""
        for unit in self.units:
            unit.reshard()

    def full_state(self) -> dict[str, Tensor]:
        """Return the whole state of the model by name, on the CPU in the main process; all processes call this.

        In the other processes, the sharded tensors are on the meta device.
        """
        self.reshard()
        return full_tensors(self.module.state_dict())


class _ReportingAllGather(AllGather):
    """Gathers the parameters of a unit; the end of another process is a `ProcessLostError`."""

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a buffer."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: torch.distributed.ProcessGroup,
        async_op: bool = False,
    ) -> torch.distributed.Work | None:
        """Gather; on a CPU, nothing is computed meanwhile."""
        with lost_processes():
            work: torch.distributed.Work | None = torch.distributed.all_gather_into_tensor(
                output_tensor, input_tensor, group=group, async_op=async_op and output_tensor.is_cuda
            )
        return work


def _mesh(world: World, device_type: str) -> DeviceMesh:
    if world.group is None:
        return init_device_mesh(device_type, (world.size,))
    return DeviceMesh.from_group(world.group, device_type)


class _Root(nn.Module):
    """Root of the units, whose forward pass is any function that calls modules of the model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Any], Result], argument: object) -> tuple[Result, list[Tensor]]:
        """Return the result with its tensors, as FSDP2 finds tensors in lists but not in any dataclass."""
        result = function(argument)
        return result, list(_tensors(result))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])


def _return(argument: object) -> object:
    return argument


def _units(roots: Iterable[nn.Module], replicated: set[nn.Parameter]) -> list[nn.Module]:
    """Return the roots with parameters of their own to shard."""
    roots = list(roots)
    users = Counter(parameter for root in roots for parameter in set(root.parameters()))
    return [
        root
        for root in roots
        if (parameters := set(root.parameters()) - replicated)
        and all(users[parameter] == 1 for parameter in parameters)
    ]


def _called_once(
    module: nn.Module, units: Sequence[nn.Module], run_examples: Sequence[Callable[[], object]]
) -> list[nn.Module]:
    """Return the units that are called once in each forward pass, since FSDP2 runs in the hooks of these calls."""
    called = list(units)
    for run_example in run_examples:
        calls = _calls(module, units, run_example)
        called = [unit for unit in called if calls[unit] == 1]
    return called


def _calls(module: nn.Module, units: Sequence[nn.Module], run_example: Callable[[], object]) -> Counter[nn.Module]:
    """Count the calls of modules in a forward pass in evaluation mode."""
    calls: Counter[nn.Module] = Counter()

    def count(called: nn.Module, _: object) -> None:
        calls[called] += 1

    handles = [unit.register_forward_pre_hook(count) for unit in units]
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        with torch.no_grad():
            module.eval()
            run_example()
    finally:
        for layer, training in modes:
            layer.training = training
        for handle in handles:
            handle.remove()
    return calls


def _use_contiguous_parameters(module: nn.Module, replicated: set[nn.Parameter]) -> None:
    """Lay out sharded parameters contiguously, as FSDP2 does; convolutions keep computing in channels-last format.

    The format of a convolution follows from its input and its weight, so its input must have the format instead.
    """
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            if parameter not in replicated:
                if parameter.dim() == 4 and parameter.stride() == _channels_last_strides(parameter):
                    layer.register_forward_pre_hook(_to_channels_last)
                parameter.data = parameter.data.contiguous()


def _to_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *others = inputs
    dense = first.contiguous(memory_format=torch.channels_last)
    if dense.stride() != _channels_last_strides(dense):
        dense = _ChannelsLastStrides.apply(dense)  # type: ignore[no-untyped-call]  # untyped in torch
    return (dense, *others)


class _ChannelsLastStrides(torch.autograd.Function):
    """Changes the strides of images of one pixel, which alone tell their format; gradients keep theirs."""

    @staticmethod
    def forward(_: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - untyped in torch
        return images.as_strided(images.shape, _channels_last_strides(images))

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient


def _channels_last_strides(tensor: Tensor) -> tuple[int, ...]:
    _, channels, height, width = tensor.shape
    return (channels * height * width, 1, channels * width, channels)
