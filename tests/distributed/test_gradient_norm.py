"""Gradients are clipped by a norm that does not depend on sharding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from finetune.distributed.gradient_norm import _row_norms, _squared_norms_of_rows, clip_grad_norm

SHAPES = ((7,), (33, 5), (1, 129), (6, 3, 2, 2), (40, 4099), (3, 1), (12, 2, 6))


def parameters(scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for shape in SHAPES:
        parameter = nn.Parameter(torch.zeros(shape))
        exponents = 4 * torch.rand(shape, generator=generator) - 2
        parameter.grad = torch.randn(shape, generator=generator) * 10**exponents * scale
        result.append(parameter)
    return result


def gradients(of: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in of if parameter.grad is not None]


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_norm_and_scaled_gradients_equal_those_of_torch(max_norm: float) -> None:
    ours, theirs = parameters(), parameters()
    theirs_norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(clip_grad_norm(ours, max_norm).float(), theirs_norm, rtol=1e-4, atol=0)
    for own, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=0)
    if max_norm > 1e3:
        assert all(map(torch.equal, gradients(ours), gradients(parameters())))


def test_norm_is_accurate() -> None:
    squares = sum(float(gradient.double().square().sum()) for gradient in gradients(parameters()))
    assert float(clip_grad_norm(parameters(), 1.0)) == pytest.approx(squares**0.5, rel=1e-12)


def test_norms_of_rows_do_not_depend_on_other_rows() -> None:
    whole = gradients(parameters())
    expected = _squared_norms_of_rows(whole)
    for parts in (2, 3, 5):
        split = [torch.tensor_split(gradient, parts) for gradient in whole]
        for number in range(parts):
            found = _squared_norms_of_rows([pieces[number] for pieces in split])
            for norms, all_norms in zip(found, expected, strict=True):
                assert torch.equal(norms, torch.tensor_split(all_norms, parts)[number])


def test_large_gradients_are_squared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [gradient.reshape(len(gradient), -1) for gradient in gradients(parameters())]
    expected = [_row_norms([gradient, gradient]) for gradient in whole]
    monkeypatch.setattr("finetune.distributed.gradient_norm._CHUNK_ELEMENTS", {"cpu": 10})
    assert all(
        torch.equal(_row_norms([gradient, gradient]), norms) for gradient, norms in zip(whole, expected, strict=True)
    )


def test_memory_layout_changes_no_bit() -> None:
    plain, channels_last = parameters(), parameters()
    for parameter in channels_last:
        if parameter.dim() == 4 and parameter.grad is not None:
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)
    assert torch.equal(clip_grad_norm(plain, 1.0), clip_grad_norm(channels_last, 1.0))


def test_tiny_and_huge_gradients_have_a_finite_norm() -> None:
    for scale in (1e-30, 1e30):
        own = parameters(scale)
        norm = float(clip_grad_norm(own, 1.0))
        assert norm == pytest.approx(scale * float(clip_grad_norm(parameters(), 1.0)), rel=1e-6)
        assert all(gradient.isfinite().all() for gradient in gradients(own))


def test_parameters_without_gradients_are_skipped() -> None:
    own = parameters()
    assert torch.equal(clip_grad_norm([nn.Parameter(torch.ones(3)), *own], 1.0), clip_grad_norm(parameters(), 1.0))
    assert float(clip_grad_norm([nn.Parameter(torch.ones(3))], 1.0)) == 0.0


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_norm_of_infinite_gradients_is_not_finite(value: float) -> None:
    own = parameters()
    assert own[0].grad is not None
    own[0].grad[0] = value
    assert not clip_grad_norm(own, 1.0).isfinite()
