"""Which type does `precision=auto` come to, and what is refused?"""

from __future__ import annotations

import pytest
import torch

from finetune.errors import UserError
from finetune.training.precision import choose_numerics

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
