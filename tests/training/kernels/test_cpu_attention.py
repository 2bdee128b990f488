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
    "none": lambda rows, length, others: None,
    "of tokens": lambda rows, length, others: _padding(rows, others),
    "of tokens, spread": lambda rows, length, others: _padding(rows, others).expand(rows, 1, length, others),
    "of heads": lambda rows, length, others: _padding(rows, others).expand(rows, 3, length, others).contiguous(),
    "of all": lambda rows, length, others: torch.ones(length, others, dtype=torch.bool).tril(),
    "numbers": lambda rows, length, others: torch.linspace(-2, 2, length * others).view(1, 1, length, others).double(),
}


def _padding(rows: int, others: int) -> Tensor:
    return (torch.arange(others) < torch.arange(others - rows + 1, others + 1)[:, None])[:, None, None]


def _given(rows: int = 2, heads: int = 3, length: int = 5, others: int = 6, width: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    sizes = ((rows, heads, length, width), (rows, heads, others, width), (rows, heads, others, width))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return scores.softmax(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_share_is_dropped_and_the_rest_is_larger(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    given = torch.full(LARGE, 2.0, dtype=dtype)
    dropped = dropout(given, 0.1)
    assert dropped.dtype is dtype
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / given.numel()))
    assert dropped[dropped != 0].double().mean().item() == pytest.approx(2 / 0.9, rel=5e-3)


def test_every_place_is_dropped_alike_and_by_itself() -> None:
    torch.manual_seed(1)
    kept = torch.stack([dropout(torch.ones(LARGE), 0.5) != 0 for _ in range(16)]).double()
    assert kept.mean(0).mean(0).sub(0.5).abs().max() < 5 * 0.5 / math.sqrt(16 * LARGE[0])
    neighbours = (kept[..., 1:] - 0.5) * (kept[..., :-1] - 0.5)
    assert neighbours.mean().abs() < 5 * 0.25 / math.sqrt(neighbours.numel())


def test_what_is_dropped_follows_the_seed() -> None:
    def of(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([dropout(torch.ones(LARGE), 0.3) for _ in range(2)])

    assert torch.equal(of(1), of(1))
    assert not torch.equal(of(1), of(2))
    assert not torch.equal(*of(1))


def test_the_gradient_passes_where_a_number_was_kept() -> None:
    given = torch.ones(LARGE, requires_grad=True)
    dropped = dropout(given, 0.3)
    torch.autograd.backward(dropped.sum())
    assert given.grad is not None
    assert torch.equal(given.grad, dropped.detach())


@pytest.mark.parametrize("given", [torch.ones(3, 5), torch.ones(LARGE, dtype=torch.float64)])
def test_nothing_is_dropped_without_learning(given: Tensor) -> None:
    assert torch.equal(dropout(given, 0.9, training=False), given)
    assert torch.equal(dropout(given, 0.0), given)
    assert not dropout(given, 1.0).any()


def test_few_numbers_are_dropped_by_pytorch() -> None:
    torch.manual_seed(3)
    ours = dropout(torch.ones(8, 8), 0.5)
    torch.manual_seed(3)
    assert torch.equal(ours, functional.dropout(torch.ones(8, 8), 0.5))


@pytest.mark.parametrize(
    "at_once", [1 << 22, 64, 1], ids=["one block", "a block of some heads", "a block for each head"]
)
@pytest.mark.parametrize("kind", MASKS)
def test_weights_are_those_of_the_definition_but_for_the_dropped(
    monkeypatch: pytest.MonkeyPatch, kind: str, at_once: int
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    rows, heads, length, others = 4, 3, 32, 40
    query, key, _ = _given(rows, heads, length, others)
    mask = MASKS[kind](rows, length, others)
    # A value of one for a single token and zero elsewhere gives that token's weight.
    each = torch.eye(others, dtype=torch.float64).expand(rows, heads, others, others)
    torch.manual_seed(5)
    found = attention(query, key, each, mask, 0.25)
    expected = _weights(query, key, mask)
    seen = expected > 0
    kept = found != 0
    torch.testing.assert_close(found[kept], expected[kept] / 0.75)
    count = int(seen.sum())
    assert (seen & kept).sum().item() / count == pytest.approx(0.75, abs=5 * math.sqrt(0.25 * 0.75 / count))
    assert not (kept & ~seen).any()


@pytest.mark.parametrize("at_once", [1 << 22, 64, 1])
@pytest.mark.parametrize("kind", MASKS)
def test_gradients_are_those_of_what_was_kept(monkeypatch: pytest.MonkeyPatch, kind: str, at_once: int) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    mask = MASKS[kind](2, 5, 6)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(11)
        return attention(query, key, value, mask, 0.4)

    assert torch.autograd.gradcheck(run, _given())


def test_a_scale_of_none_at_all_is_one() -> None:
    query, key, value = _given()
    torch.manual_seed(4)
    blind = attention(query, key, value, None, 0.3, scale=0.0)
    torch.manual_seed(4)
    assert torch.equal(blind, attention(torch.zeros_like(query), key, value, None, 0.3))


def test_a_token_sees_no_later_ones() -> None:
    query, key, value = _given(others=5)
    torch.manual_seed(2)
    causal = attention(query, key, value, None, 0.3, is_causal=True)
    torch.manual_seed(2)
    masked = attention(query, key, value, torch.ones(5, 5, dtype=torch.bool).tril(), 0.3)
    assert torch.equal(causal, masked)


def test_a_token_that_sees_nothing_is_a_number() -> None:
    query, key, value = _given()
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.bool)
    result = attention(query, key, value, mask, 0.3)
    torch.autograd.backward(result.sum())
    assert result.isfinite().all()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_in_bf16_it_is_as_near_as_pytorchs_without_dropout() -> None:
    given = [one.detach().repeat(1, 1, 8, 8) for one in _given()]

    def error(attend: Callable[..., Tensor], share: float) -> float:
        results = []
        for dtype in (torch.float64, torch.bfloat16):
            torch.manual_seed(1)
            results.append(attend(*(one.to(dtype) for one in given), dropout_p=share).double())
        return float((results[1] - results[0]).norm() / results[0].norm())

    assert error(attention, 0.1) < 1.5 * error(functional.scaled_dot_product_attention, 0.0)


def test_only_what_comes_in_is_kept_for_the_backward_pass() -> None:
    query, key, value = (one.detach().repeat(1, 1, 16, 1).requires_grad_() for one in _given())
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(query, key, value, None, 0.1)
    assert sorted(kept) == sorted([query.numel(), key.numel(), value.numel()])


@pytest.mark.parametrize("autocast", [False, True])
def test_layers_as_they_are_drop_by_it(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    called: list[tuple[torch.dtype, int]] = []
    draw = module._Draws.kept

    def kept(self: module._Draws, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        called.append((dtype, len(shape)))
        return draw(self, shape, dtype)

    monkeypatch.setattr(module._Draws, "kept", kept)
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128
    )
    network: Any = BertForSequenceClassification(config)  # type: ignore[no-untyped-call]  # untyped in transformers
    tokens = torch.randint(64, (4, 32))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), cpu_attention_kernels(HOST):
        network.train()
        first, second = (network(tokens).logits for _ in range(2))
        network.eval()
        finished = network(tokens).logits
    weights = torch.bfloat16 if autocast else torch.float32
    # The embeddings' output, attention weights, and the outputs of both halves of the layer.
    assert called == [(torch.float32, 3), (weights, 4), (weights, 3), (weights, 3)] * 2
    assert not torch.equal(first, second)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(finished, network(tokens).logits)


def test_elsewhere_pytorch_drops() -> None:
    with cpu_attention_kernels(torch.device("cuda")) as found:
        assert found is None
