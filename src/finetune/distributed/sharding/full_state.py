"""Converts between tensors that are sharded over all processes and whole tensors in the main process.

Checkpoints contain whole tensors with the names and shapes of the unsharded model, so they do not depend on the number
of processes. All functions are collective operations, which every process calls for the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune.distributed.world import lost_processes


def mesh_of(tensors: Iterable[Tensor]) -> DeviceMesh | None:
    """Return the processes over which some of the tensors are sharded; `None` if none is."""
    return next((tensor.device_mesh for tensor in tensors if isinstance(tensor, DTensor)), None)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole: on the CPU in the main process, on the meta device in others.

    A tensor that is not sharded is returned as it is.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    sharded: DTensor = tensor.detach()  # type: ignore[assignment]  # the stub returns a plain tensor
    with lost_processes():
        full: Tensor = sharded.full_tensor()
    return full.cpu() if tensor.device_mesh.get_local_rank() == 0 else full.to("meta")


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a whole, gathered one after the other; see `full_tensor`."""
    return {name: full_tensor(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def copy_from_main(target: Tensor, source: Tensor | None, mesh: DeviceMesh) -> None:
    """Copy a whole tensor of the main process into a tensor of each process, sharded or not.

    Args:
        target: Tensor to overwrite.
        source: Whole tensor of the same shape and dtype; only read in the main process.
        mesh: The processes.
    """
    whole = torch.empty(target.shape, dtype=target.dtype, device=mesh.device_type)
    if mesh.get_local_rank() == 0 and source is not None:
        whole.copy_(source)
    with lost_processes():
        if isinstance(target, DTensor):
            target.copy_(distribute_tensor(whole, mesh, target.placements, src_data_rank=0))
        else:
            torch.distributed.broadcast(whole, group=mesh.get_group(), group_src=0)
            target.copy_(whole)


def flags_of_main(flags: Sequence[bool], mesh: DeviceMesh) -> list[bool]:
    """Return the flags of the main process in all processes; their number must be equal in all."""
    values = torch.tensor([int(flag) for flag in flags], dtype=torch.int32, device=mesh.device_type)
    with lost_processes():
        torch.distributed.broadcast(values, group=mesh.get_group(), group_src=0)
    return [bool(value) for value in values.tolist()]


def check_in_main(check: Callable[[], None], mesh: DeviceMesh) -> None:
    """Run a check in the main process; if it fails, it fails in all processes, so that none waits for the others.

    Raises:
        ValueError: The check raised it.
    """
    error: ValueError | None = None
    if mesh.get_local_rank() == 0:
        try:
            check()
        except ValueError as refused:
            error = refused
    (failed,) = flags_of_main([error is not None], mesh)
    if failed:
        raise error or ValueError("the state of the main process is invalid")
