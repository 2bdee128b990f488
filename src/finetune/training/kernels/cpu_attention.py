"""Fast dropout and blockwise attention with dropout for CPUs.

PyTorch draws a random number for each element in sequence, and its CPU attention with dropout is not blockwise: it
stores all attention weights of every head and text until the backward pass, several times over. That takes two thirds
of a training step of BERT on texts of 512 tokens. Here random bits are drawn for four elements at a time, and attention
is computed block by block and recomputes its weights in the backward pass, as FlashAttention does (Dao et al., 2022,
arXiv:2205.14135).

The dropout mask is seeded from PyTorch's generator, so it is determined by the seed of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SMALL = 4096
"""Number of elements up to which PyTorch's own dropout is faster, because of the set-up cost of ours."""
_AT_ONCE = 1 << 22
"""Attention weights per block: few enough to fit in the CPU's cache, enough to use all of its cores."""
_STEPS = 1 << 16
_AS_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def cpu_attention_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Return the context manager in which trainable layers run on a device."""
    return _OnHost() if device.type == "cpu" else nullcontext()


class _OnHost(TorchFunctionMode):
    """Replaces PyTorch's dropout and attention functions on the CPU; the layers stay unchanged."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - result of any torch function
        kwargs = kwargs or {}
        if func in _OURS and not torch.compiler.is_compiling():
            return _OURS[func](*args, **kwargs)
        return func(*args, **kwargs)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002 - PyTorch's own
    """Drop-in for `torch.nn.functional.dropout`; `p` is rounded to a multiple of 1/65536."""
    threshold = round(p * _STEPS)
    if not training or inplace or not 0 < threshold < _STEPS or input.numel() <= _SMALL or not _floating(input):
        return functional.dropout(input, p, training, inplace)
    kept = _Draws(_draw_seed(), threshold).kept(input.shape, input.dtype)
    return input * kept.to(input.dtype).mul_(_STEPS / (_STEPS - threshold))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,  # noqa: ANN401
) -> Tensor:
    """Drop-in for `scaled_dot_product_attention`; `dropout_p` is rounded to a multiple of 1/65536.

    Args:
        query: `[batch, heads, length, width]`.
        key: `[batch, heads, others, width]`.
        value: `[batch, heads, others, width]`.
        attn_mask: Boolean mask, true for positions to attend to, or float values to add to the scores; broadcasts to
            `[batch, heads, length, others]`.
        dropout_p: Dropout probability of the attention weights.
        is_causal: Whether to mask later tokens.
        others: `scale` of the scores (default: one over the square root of the width), and `enable_gqa`.
    """
    threshold = round(dropout_p * _STEPS)
    learnt = attn_mask is not None and attn_mask.requires_grad
    grouped = others.get("enable_gqa", False)
    if not 0 < threshold < _STEPS or query.dim() != 4 or grouped or learnt or not _floating(query):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **others)
    if is_causal:
        attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    if attn_mask is not None:
        attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    scale = others.get("scale")
    how = _How(attn_mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale, threshold, _draw_seed())
    result: Tensor = _Attention.apply(*(one.to(dtype) for one in (query, key, value)), how)  # type: ignore[no-untyped-call]  # untyped in torch
    return result


_OURS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.dropout: dropout,
    functional.scaled_dot_product_attention: attention,
}


def _floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() in _AS_INTEGERS


def _draw_seed() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


class _Draws:
    """Sequence of dropout masks that is reproducible from its seed; drawn by numpy's PCG64DXSM."""

    def __init__(self, seed: int, threshold: int) -> None:
        self._bits = np.random.PCG64DXSM(seed)
        self._least = threshold - _STEPS // 2

    def kept(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the mask as 1 (keep) or 0 (drop) in an integer dtype of the same width as `dtype`.

        Multiplying integers of the same width is several times faster than multiplying floats by booleans.
        """
        count = shape.numel()
        drawn = torch.from_numpy(self._bits.random_raw(-(-count // 4)).view(np.int16)[:count]).view(shape)
        return torch.ge(drawn, self._least, out=torch.empty(shape, dtype=_AS_INTEGERS[dtype.itemsize]))


def _keep(weights: Tensor, kept: Tensor) -> Tensor:
    """Zero the dropped elements in place.

    Works on the bit patterns as integers: times 1 leaves a number unchanged, times 0 gives the bits of zero.
    """
    weights.view(kept.dtype).mul_(kept)
    return weights


@dataclass(frozen=True, slots=True)
class _How:
    """Non-tensor arguments of `attention`.

    Attributes:
        mask: Attention mask with four dimensions.
        threshold: Dropout probability in units of 1/65536.
        seed: Seed of the dropout mask.
    """

    mask: Tensor | None
    scale: float
    threshold: int
    seed: int

    @property
    def larger(self) -> float:
        """Scale factor of the remaining weights."""
        return _STEPS / (_STEPS - self.threshold)

    def draws(self) -> _Draws:
        """Return the sequence of dropout masks from its start."""
        return _Draws(self.seed, self.threshold)


class _Attention(torch.autograd.Function):
    """Attention that saves only its inputs; the backward pass recomputes the weights and dropout masks."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:  # noqa: ANN401 - autograd
        batch, heads, length, _ = query.shape
        result = query.new_empty((batch, length, heads, value.shape[-1])).transpose(1, 2)
        draws = how.draws()
        with torch.autocast("cpu", enabled=False):
            for part in _parts(query, key):
                weights = _weights(query[part], key[part], _of(how.mask, part), how.scale)
                dropped = _keep(weights, draws.kept(weights.shape, weights.dtype))
                result[part] = torch.matmul(dropped, value[part])
            result.mul_(how.larger)
        ctx.save_for_backward(query, key, value)
        ctx.how = how
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - autograd context
        (query, key, value), how = ctx.saved_tensors, ctx.how
        of_query, of_key, of_value = (torch.empty_like(one) for one in (query, key, value))
        draws = how.draws()
        with torch.autocast("cpu", enabled=False):
            for part in _parts(query, key):
                weights = _weights(query[part], key[part], _of(how.mask, part), how.scale)
                kept = draws.kept(weights.shape, weights.dtype)
                of_weights = _keep(torch.matmul(gradient[part], value[part].transpose(-1, -2)), kept)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                of_query[part] = torch.matmul(of_scores, key[part])
                of_key[part] = torch.matmul(of_scores.transpose(-1, -2), query[part])
                of_value[part] = torch.matmul(_keep(weights, kept).transpose(-1, -2), gradient[part])
            of_value.mul_(how.larger)
            of_query.mul_(how.larger * how.scale)
            of_key.mul_(how.larger * how.scale)
        return of_query, of_key, of_value, None


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and heads of each block: several rows for short texts, part of a row's heads for long ones."""
    batch, heads, length, _ = query.shape
    weights = max(1, length * key.shape[2])
    rows = max(1, _AT_ONCE // (heads * weights))
    together = max(1, min(heads, _AT_ONCE // weights))
    for row in range(0, batch, rows):
        for head in range(0, heads, together):
            yield slice(row, row + rows), slice(head, head + together)


def _of(mask: Tensor | None, part: tuple[slice, slice]) -> Tensor | None:
    """Return the part of the mask to add to a block's scores; dimensions of size 1 are kept for broadcasting."""
    if mask is None:
        return None
    rows, heads = (at if size > 1 else slice(None) for at, size in zip(part, mask.shape, strict=False))
    mask = mask[rows, heads]
    if mask.stride(-2) == 0:
        mask = mask[..., :1, :]
    if mask.dtype is not torch.bool:
        return mask
    # The lowest finite number instead of -inf: a fully masked row would become NaN.
    return torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)


def _weights(query: Tensor, key: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """Softmax of the scores, computed in at least float32 and returned in the dtype of the inputs."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.matmul(query.to(wide) * scale, key.to(wide).transpose(-1, -2))
    if added is not None:
        scores.add_(added)
    return torch.softmax(scores, -1).to(query.dtype)
