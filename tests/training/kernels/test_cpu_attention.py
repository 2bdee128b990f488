"""CPU attention: dropout is determined by the seed; outputs and gradients match the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

import finetune.training.kernels.cpu_attention as module
from finetune.training.kernels.cpu_attention import attention, cpu_attention_kernels, dropout

HOST = torch.device("cpu")
LARGE = (64, 1024)
MASKS: dict[str, Callable[[int, int, int], Tensor | None]] = {
    "none": lambda rows, length, key_length: None,
    "of tokens": lambda rows, length, key_length: _padding(rows, key_length),
    "of tokens, spread": lambda rows, length, key_length: _padding(rows, key_length).expand(
        rows, 1, length, key_length
    ),
    "of heads": lambda rows, length, key_length: (
        _padding(rows, key_length).expand(rows, 3, length, key_length).contiguous()
    ),
    "of all": lambda rows, length, key_length: torch.ones(length, key_length, dtype=torch.bool).tril(),
    "numbers": lambda rows, length, key_length: (
        torch.linspace(-2, 2, length * key_length).view(1, 1, length, key_length).double()
    ),
}


def _padding(rows: int, key_length: int) -> Tensor:
    return (torch.arange(key_length) < torch.arange(key_length - rows + 1, key_length + 1)[:, None])[:, None, None]


def _inputs(rows: int = 2, heads: int = 3, length: int = 5, key_length: int = 6, width: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    sizes = ((rows, heads, length, width), (rows, heads, key_length, width), (rows, heads, key_length, width))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return scores.softmax(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropout_drops_the_given_share_and_scales_the_rest(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    values = torch.full(LARGE, 2.0, dtype=dtype)
    dropped = dropout(values, 0.1)
    assert dropped.dtype is dtype
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / values.numel()))
    assert dropped[dropped != 0].double().mean().item() == pytest.approx(2 / 0.9, rel=5e-3)


def test_elements_are_dropped_uniformly_and_independently() -> None:
    torch.manual_seed(1)
    kept = torch.stack([dropout(torch.ones(LARGE), 0.5) != 0 for _ in range(16)]).double()
    assert kept.mean(0).mean(0).sub(0.5).abs().max() < 5 * 0.5 / math.sqrt(16 * LARGE[0])
    neighbours = (kept[..., 1:] - 0.5) * (kept[..., :-1] - 0.5)
    assert neighbours.mean().abs() < 5 * 0.25 / math.sqrt(neighbours.numel())


def test_dropout_mask_is_determined_by_the_seed() -> None:
    def drop(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([dropout(torch.ones(LARGE), 0.3) for _ in range(2)])

    assert torch.equal(drop(1), drop(1))
    assert not torch.equal(drop(1), drop(2))
    assert not torch.equal(*drop(1))


def test_gradient_of_dropout_is_its_scaled_mask() -> None:
    values = torch.ones(LARGE, requires_grad=True)
    dropped = dropout(values, 0.3)
    torch.autograd.backward(dropped.sum())
    assert values.grad is not None
    assert torch.equal(values.grad, dropped.detach())


@pytest.mark.parametrize("values", [torch.ones(3, 5), torch.ones(LARGE, dtype=torch.float64)])
def test_dropout_in_evaluation_mode_and_with_extreme_probabilities(values: Tensor) -> None:
    assert torch.equal(dropout(values, 0.9, training=False), values)
    assert torch.equal(dropout(values, 0.0), values)
    assert not dropout(values, 1.0).any()


def test_small_tensors_use_pytorch_dropout() -> None:
    torch.manual_seed(3)
    ours = dropout(torch.ones(8, 8), 0.5)
    torch.manual_seed(3)
    assert torch.equal(ours, functional.dropout(torch.ones(8, 8), 0.5))


@pytest.mark.parametrize(
    "block_size", [1 << 22, 64, 1], ids=["one block", "a block of some heads", "a block for each head"]
)
@pytest.mark.parametrize("kind", MASKS)
def test_attention_weights_match_the_definition_except_dropped_ones(
    monkeypatch: pytest.MonkeyPatch, kind: str, block_size: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK_SIZE", block_size)
    rows, heads, length, key_length = 4, 3, 32, 40
    query, key, _ = _inputs(rows, heads, length, key_length)
    mask = MASKS[kind](rows, length, key_length)
    # A value of one for a single token and zero elsewhere gives that token's weight.
    identity = torch.eye(key_length, dtype=torch.float64).expand(rows, heads, key_length, key_length)
    torch.manual_seed(5)
    result = attention(query, key, identity, mask, 0.25)
    expected = _weights(query, key, mask)
    seen = expected > 0
    kept = result != 0
    torch.testing.assert_close(result[kept], expected[kept] / 0.75)
    count = int(seen.sum())
    assert (seen & kept).sum().item() / count == pytest.approx(0.75, abs=5 * math.sqrt(0.25 * 0.75 / count))
    assert not (kept & ~seen).any()


@pytest.mark.parametrize("block_size", [1 << 22, 64, 1])
@pytest.mark.parametrize("kind", MASKS)
def test_attention_gradients_pass_gradcheck(monkeypatch: pytest.MonkeyPatch, kind: str, block_size: int) -> None:
    monkeypatch.setattr(module, "_BLOCK_SIZE", block_size)
    mask = MASKS[kind](2, 5, 6)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(11)
        return attention(query, key, value, mask, 0.4)

    assert torch.autograd.gradcheck(run, _inputs())


def test_scale_of_zero_is_applied() -> None:
    query, key, value = _inputs()
    torch.manual_seed(4)
    zero_scaled = attention(query, key, value, None, 0.3, scale=0.0)
    torch.manual_seed(4)
    assert torch.equal(zero_scaled, attention(torch.zeros_like(query), key, value, None, 0.3))


def test_causal_attention_masks_later_tokens() -> None:
    query, key, value = _inputs(key_length=5)
    torch.manual_seed(2)
    causal = attention(query, key, value, None, 0.3, is_causal=True)
    torch.manual_seed(2)
    masked = attention(query, key, value, torch.ones(5, 5, dtype=torch.bool).tril(), 0.3)
    assert torch.equal(causal, masked)


def test_fully_masked_rows_are_finite() -> None:
    query, key, value = _inputs()
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.bool)
    result = attention(query, key, value, mask, 0.3)
    torch.autograd.backward(result.sum())
    assert result.isfinite().all()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_bf16_attention_is_as_accurate_as_pytorch_without_dropout() -> None:
    values = [tensor.detach().repeat(1, 1, 8, 8) for tensor in _inputs()]

    def error(attend: Callable[..., Tensor], share: float) -> float:
        results = []
        for dtype in (torch.float64, torch.bfloat16):
            torch.manual_seed(1)
            results.append(attend(*(tensor.to(dtype) for tensor in values), dropout_p=share).double())
        return float((results[1] - results[0]).norm() / results[0].norm())

    assert error(attention, 0.1) < 1.5 * error(functional.scaled_dot_product_attention, 0.0)


def test_only_inputs_are_saved_for_the_backward_pass() -> None:
    query, key, value = (tensor.detach().repeat(1, 1, 16, 1).requires_grad_() for tensor in _inputs())
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(query, key, value, None, 0.1)
    assert sorted(kept) == sorted([query.numel(), key.numel(), value.numel()])


@pytest.mark.parametrize("autocast", [False, True])
def test_bert_layers_use_the_kernels_in_training_mode(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    calls: list[tuple[torch.dtype, int]] = []
    original_draw = module._DropoutMasks.draw

    def recorded_draw(self: module._DropoutMasks, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        calls.append((dtype, len(shape)))
        return original_draw(self, shape, dtype)

    monkeypatch.setattr(module._DropoutMasks, "draw", recorded_draw)
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128
    )
    model: Any = BertForSequenceClassification(config)  # type: ignore[no-untyped-call]  # untyped in transformers
    tokens = torch.randint(64, (4, 32))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), cpu_attention_kernels(HOST):
        model.train()
        first, second = (model(tokens).logits for _ in range(2))
        model.eval()
        evaluated = model(tokens).logits
    weights = torch.bfloat16 if autocast else torch.float32
    # The embeddings' output, attention weights, and the outputs of both halves of the layer.
    assert calls == [(torch.float32, 3), (weights, 4), (weights, 3), (weights, 3)] * 2
    assert not torch.equal(first, second)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(evaluated, model(tokens).logits)


def test_kernels_are_not_used_on_other_devices() -> None:
    with cpu_attention_kernels(torch.device("cuda")) as result:
        assert result is None
