"""Resolution of `precision=auto`, and rejected precisions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from finetune.errors import UserError
from finetune.runtime.precision import choose_numerics, has_unseeing_columns, suited_to

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "name"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True, "amx_bf16": False}, "fp32")],
)
def test_auto_on_a_cpu_is_bf16_where_it_multiplies_in_it(
    instructions: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_numerics("auto", CPU).name == name


def test_what_this_cpu_can_is_known_to_the_library() -> None:
    assert {"avx512_bf16", "amx_bf16"} <= set(torch.cpu.get_capabilities())


def test_bf16_is_taken_on_any_cpu_that_is_told_so_and_products_are_in_it() -> None:
    numerics = choose_numerics("bf16", CPU)
    assert not numerics.scaled
    with numerics.context():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16


def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"precision is fp16.*use precision=auto, fp32 or bf16"):
        choose_numerics("fp16", CPU)


@pytest.mark.parametrize(("size", "unseeing"), [(16, True), (17, False), (32, False)])
def test_maps_narrower_than_a_stride_are_found_and_nothing_changes(size: int, unseeing: bool) -> None:
    network = resnet18(num_classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert has_unseeing_columns(network, lambda: network(torch.zeros(2, 3, size, size))) == unseeing
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_where_bf16_would_compute_something_else_auto_is_fp32_and_a_wish_is_refused() -> None:
    bf16, plain = choose_numerics("bf16", CPU), nn.Linear(1, 1)
    assert suited_to(bf16, plain, "auto", lambda: False) is bf16
    assert suited_to(bf16, plain, "auto", lambda: True).name == "fp32"
    with pytest.raises(UserError, match=r"precision is bf16, but image_size is too small.*use precision=auto or fp32"):
        suited_to(bf16, plain, "bf16", lambda: True)


def test_deberta_computes_in_fp32() -> None:
    network = nn.Linear(1, 1)
    network.config = SimpleNamespace(model_type="deberta")  # type: ignore[assignment]
    assert suited_to(choose_numerics("bf16", CPU), network, "auto", lambda: False).name == "fp32"
