"""Resolution of `precision=auto`, and rejected precisions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from finetune.errors import UserError
from finetune.runtime.precision import choose_numerics, has_padding_only_columns, supported_numerics

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "name"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True, "amx_bf16": False}, "fp32")],
)
def test_auto_is_bf16_on_cpu_with_bf16_products(
    instructions: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_numerics("auto", CPU).name == name


def test_torch_reports_bf16_capabilities() -> None:
    assert {"avx512_bf16", "amx_bf16"} <= set(torch.cpu.get_capabilities())


def test_requested_bf16_is_used_on_any_cpu() -> None:
    numerics = choose_numerics("bf16", CPU)
    assert not numerics.scaled
    with numerics.context():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16


def test_fp16_without_gpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"precision is fp16.*use precision=auto, fp32 or bf16"):
        choose_numerics("fp16", CPU)


@pytest.mark.parametrize(("size", "padding_only"), [(16, True), (17, False), (32, False)])
def test_maps_narrower_than_stride_are_detected_without_side_effects(size: int, padding_only: bool) -> None:
    model = resnet18(num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert has_padding_only_columns(model, lambda: model(torch.zeros(2, 3, size, size))) == padding_only
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_unsupported_bf16_is_fp32_with_auto_and_refused_if_requested() -> None:
    bf16, plain = choose_numerics("bf16", CPU), nn.Linear(1, 1)
    assert supported_numerics(bf16, plain, "auto", lambda: False) is bf16
    assert supported_numerics(bf16, plain, "auto", lambda: True).name == "fp32"
    with pytest.raises(UserError, match=r"precision is bf16, but image_size is too small.*use precision=auto or fp32"):
        supported_numerics(bf16, plain, "bf16", lambda: True)


def test_deberta_uses_fp32() -> None:
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(model_type="deberta")  # type: ignore[assignment]
    assert supported_numerics(choose_numerics("bf16", CPU), model, "auto", lambda: False).name == "fp32"
