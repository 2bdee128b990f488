"""Gradient clipping with the same bits for any number of processes, whether gradients are sharded or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetune.distributed.sharding.full_state import mesh_of
from finetune.distributed.world import lost_processes

_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 23}
"""Elements that are squared at once: few enough for a CPU's cache, enough to occupy a GPU."""


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their total norm is at most `max_norm`.

    `torch.nn.utils.clip_grad_norm_` sums in an order that depends on the shapes of the tensors, hence on sharding. Here
    squares are summed in float64 by additions of halves, first within rows and then over all rows.

    Args:
        parameters: Parameters, in the same order in all processes; those without a gradient are skipped.
        max_norm: Maximum norm.

    Returns:
        The norm before scaling, float64, 0-d, without synchronizing with the device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    rows = _gathered(gradients, _squared_norms_of_rows(local))
    norm = _sum_of_halves(torch.cat(rows).unsqueeze(0)).squeeze(0).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in local:
        gradient.mul_(factor.to(gradient.dtype))
    return norm


def _squared_norms_of_rows(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the squared norm of each row of each gradient, float64 `[rows]`."""
    by_width: dict[int, list[int]] = defaultdict(list)
    for index, gradient in enumerate(gradients):
        by_width[gradient.shape[1:].numel()].append(index)
    norms: dict[int, Tensor] = {}
    for width, indices in by_width.items():
        # Rows of equal width are processed together, in few operations; each row is summed by itself.
        rows = _row_norms([gradients[index].reshape(-1, width) for index in indices])
        parts = torch.split(rows, [len(gradients[index]) for index in indices])
        norms |= dict(zip(indices, parts, strict=True))
    return [norms[index] for index in range(len(gradients))]


def _row_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the squared norms of the rows of gradients `[rows, columns]` with the same number of columns."""
    limit = max(1, _CHUNK_ELEMENTS[gradients[0].device.type] // gradients[0].shape[1])
    norms: list[Tensor] = []
    chunk: list[Tensor] = []
    for part in (part for gradient in gradients for part in torch.split(gradient, limit)):
        if chunk and sum(map(len, chunk)) + len(part) > limit:
            norms.append(_sum_of_halves(torch.cat(chunk).double().square_()))
            chunk = []
        chunk.append(part)
    norms.append(_sum_of_halves(torch.cat(chunk).double().square_()))
    return torch.cat(norms)


def _sum_of_halves(values: Tensor) -> Tensor:
    """Sum float64 `[rows, columns]` over the columns; `values` is overwritten.

    Only elementwise additions: kernels for sums choose their order by the shape of the whole tensor.
    """
    columns = values.shape[1]
    while columns > 1:
        half = (columns + 1) // 2
        values[:, : columns - half] += values[:, half:columns]
        columns = half
    return values[:, 0]


def _gathered(gradients: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
    """Gather the values of the rows of sharded gradients from all processes."""
    mesh = mesh_of(gradients)
    if mesh is None:
        return list(rows)
    sharded = [index for index, gradient in enumerate(gradients) if isinstance(gradient, DTensor)]
    size = mesh.size()
    chunks = [-(-gradients[index].shape[0] // size) for index in sharded]
    padded = [
        torch.nn.functional.pad(rows[index], (0, chunk - len(rows[index])))
        for index, chunk in zip(sharded, chunks, strict=True)
    ]
    own = torch.cat(padded)
    everyone = own.new_empty(size * len(own))
    with lost_processes():
        torch.distributed.all_gather_into_tensor(everyone, own, group=mesh.get_group())
    result = list(rows)
    for index, part in zip(sharded, torch.split(everyone.view(size, -1), chunks, dim=1), strict=True):
        result[index] = part.reshape(-1)[: gradients[index].shape[0]]
    return result
