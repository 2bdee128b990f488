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

_SMALL_SIZE = 4096
"""Number of elements up to which PyTorch's own dropout is faster, because of the set-up cost of ours."""
_BLOCK_SIZE = 1 << 22
"""Attention weights per block: few enough to fit in the CPU's cache, enough to use all of its cores."""
_RESOLUTION = 1 << 16
_INTEGER_DTYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def cpu_attention_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Return the context manager in which trainable layers run on a device."""
    return _CpuKernels() if device.type == "cpu" else nullcontext()


class _CpuKernels(TorchFunctionMode):
    """Replaces PyTorch's dropout and attention functions on the CPU; the layers stay unchanged."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - result of any torch function
        kwargs = kwargs or {}
        if func in _REPLACEMENTS and not torch.compiler.is_compiling():
            return _REPLACEMENTS[func](*args, **kwargs)
        return func(*args, **kwargs)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002 - PyTorch's own
    """Drop-in for `torch.nn.functional.dropout`; `p` is rounded to a multiple of 1/65536."""
    threshold = round(p * _RESOLUTION)
    if (
        not training
        or inplace
        or not 0 < threshold < _RESOLUTION
        or input.numel() <= _SMALL_SIZE
        or not _is_floating(input)
    ):
        return functional.dropout(input, p, training, inplace)
    keep_mask = _DropoutMasks(_draw_seed(), threshold).draw(input.shape, input.dtype)
    return input * keep_mask.to(input.dtype).mul_(_RESOLUTION / (_RESOLUTION - threshold))


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
    threshold = round(dropout_p * _RESOLUTION)
    mask_requires_grad = attn_mask is not None and attn_mask.requires_grad
    grouped = others.get("enable_gqa", False)
    if not 0 < threshold < _RESOLUTION or query.dim() != 4 or grouped or mask_requires_grad or not _is_floating(query):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **others)
    if is_causal:
        attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    if attn_mask is not None:
        attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    scale = others.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    options = _AttentionOptions(attn_mask, scale, threshold, _draw_seed())
    result: Tensor = _Attention.apply(*(tensor.to(dtype) for tensor in (query, key, value)), options)  # type: ignore[no-untyped-call]  # untyped in torch
    return result


_REPLACEMENTS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.dropout: dropout,
    functional.scaled_dot_product_attention: attention,
}


def _is_floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() in _INTEGER_DTYPES


def _draw_seed() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


class _DropoutMasks:
    """Sequence of dropout masks that is reproducible from its seed; drawn by numpy's PCG64DXSM."""

    def __init__(self, seed: int, threshold: int) -> None:
        self._bits = np.random.PCG64DXSM(seed)
        self._min_kept = threshold - _RESOLUTION // 2

    def draw(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the mask as 1 (keep) or 0 (drop) in an integer dtype of the same width as `dtype`.

        Multiplying integers of the same width is several times faster than multiplying floats by booleans.
        """
        count = shape.numel()
        bits = torch.from_numpy(self._bits.random_raw(-(-count // 4)).view(np.int16)[:count]).view(shape)
        return torch.ge(bits, self._min_kept, out=torch.empty(shape, dtype=_INTEGER_DTYPES[dtype.itemsize]))


def _apply_mask(weights: Tensor, keep_mask: Tensor) -> Tensor:
    """Zero the dropped elements in place.

    Works on the bit patterns as integers: times 1 leaves a number unchanged, times 0 gives the bits of zero.
    """
    weights.view(keep_mask.dtype).mul_(keep_mask)
    return weights


@dataclass(frozen=True, slots=True)
class _AttentionOptions:
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
    def rescale(self) -> float:
        """Scale factor of the remaining weights."""
        return _RESOLUTION / (_RESOLUTION - self.threshold)

    def masks(self) -> _DropoutMasks:
        """Return the sequence of dropout masks from its start."""
        return _DropoutMasks(self.seed, self.threshold)


class _Attention(torch.autograd.Function):
    """Attention that saves only its inputs; the backward pass recomputes the weights and dropout masks."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: _AttentionOptions) -> Tensor:  # noqa: ANN401 - autograd
        batch, heads, length, _ = query.shape
        result = query.new_empty((batch, length, heads, value.shape[-1])).transpose(1, 2)
        masks = options.masks()
        with torch.autocast("cpu", enabled=False):
            for block in _blocks(query, key):
                weights = _weights(query[block], key[block], _mask_block(options.mask, block), options.scale)
                dropped = _apply_mask(weights, masks.draw(weights.shape, weights.dtype))
                result[block] = torch.matmul(dropped, value[block])
            result.mul_(options.rescale)
        ctx.save_for_backward(query, key, value)
        ctx.options = options
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - autograd context
        (query, key, value), options = ctx.saved_tensors, ctx.options
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        masks = options.masks()
        with torch.autocast("cpu", enabled=False):
            for block in _blocks(query, key):
                weights = _weights(query[block], key[block], _mask_block(options.mask, block), options.scale)
                keep_mask = masks.draw(weights.shape, weights.dtype)
                grad_weights = _apply_mask(torch.matmul(gradient[block], value[block].transpose(-1, -2)), keep_mask)
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_query[block] = torch.matmul(grad_scores, key[block])
                grad_key[block] = torch.matmul(grad_scores.transpose(-1, -2), query[block])
                grad_value[block] = torch.matmul(_apply_mask(weights, keep_mask).transpose(-1, -2), gradient[block])
            grad_value.mul_(options.rescale)
            grad_query.mul_(options.rescale * options.scale)
            grad_key.mul_(options.rescale * options.scale)
        return grad_query, grad_key, grad_value, None


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and heads of each block: several rows for short texts, part of a row's heads for long ones."""
    batch, heads, length, _ = query.shape
    weights = max(1, length * key.shape[2])
    rows = max(1, _BLOCK_SIZE // (heads * weights))
    heads_per_block = max(1, min(heads, _BLOCK_SIZE // weights))
    for row in range(0, batch, rows):
        for head in range(0, heads, heads_per_block):
            yield slice(row, row + rows), slice(head, head + heads_per_block)


def _mask_block(mask: Tensor | None, block: tuple[slice, slice]) -> Tensor | None:
    """Return the part of the mask to add to a block's scores; dimensions of size 1 are kept for broadcasting."""
    if mask is None:
        return None
    rows, heads = (at if size > 1 else slice(None) for at, size in zip(block, mask.shape, strict=False))
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
