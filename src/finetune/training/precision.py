"""In which floating-point type the network runs, by request and by hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from finetune.errors import UserError
from finetune.spec.job_spec import Precision

# What PyTorch calls the instructions that multiply bf16 and add in float32.
_BF16_PRODUCTS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Numerics:
    """Types of a job's arithmetic; weights and optimizer stay in float32.

    Attributes:
        device: where the network lives.
        autocast: type of matrix products and convolutions, `None` for float32 throughout.
        scaled: whether losses are scaled so that float16 gradients do not vanish.
    """

    device: torch.device
    autocast: torch.dtype | None
    scaled: bool

    @property
    def name(self) -> Literal["fp32", "bf16", "fp16"]:
        """The name that a user gives it."""
        if self.autocast is None:
            return "fp32"
        return "fp16" if self.autocast is torch.float16 else "bf16"

    def context(self) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def choose_numerics(precision: Precision, device: torch.device) -> Numerics:
    """Resolve `auto`: bf16 where a GPU or the CPU multiplies in it, fp16 on older GPUs, fp32 elsewhere.

    With fp32 on a GPU, convolutions may compute in TF32 and products of matrices may not: PyTorch's defaults.

    Raises:
        UserError: fp16 without a GPU, where its products are slower and its gradients vanish.
    """
    on_gpu = device.type == "cuda"
    if precision == "fp16" and not on_gpu:
        raise UserError("precision is fp16, but there is no GPU: use precision=auto, fp32 or bf16.")
    if precision == "auto":
        precision = _fastest_on_gpu() if on_gpu else _fastest_on_cpu()
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return Numerics(device, dtype, scaled=dtype is torch.float16)


def _fastest_on_gpu() -> Literal["bf16", "fp16"]:
    return "bf16" if torch.cuda.is_bf16_supported(False) else "fp16"


def _fastest_on_cpu() -> Literal["bf16", "fp32"]:
    """Without such instructions bf16 would have to be emulated."""
    found = torch.cpu.get_capabilities()
    return "bf16" if any(found.get(name, False) for name in _BF16_PRODUCTS) else "fp32"
