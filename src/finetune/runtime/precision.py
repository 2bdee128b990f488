"""In which floating-point type the network runs, by request and by hardware."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.hyperparameters import Precision
from finetune.errors import UserError

_ONLY_FLOAT32 = frozenset({"deberta"})
"""Transformers' `model_type`s that mask scores of the autocast type with the least number of float32, an overflow."""
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


def suited_to(
    numerics: Numerics, module: nn.Module, asked: Precision, sees_only_padding: Callable[[], bool]
) -> Numerics:
    """The same arithmetic, or float32 where the network cannot run in less.

    Raises:
        UserError: the user asks for less.
    """
    if numerics.autocast is None:
        return numerics
    reason = ""
    if getattr(getattr(module, "config", None), "model_type", None) in _ONLY_FLOAT32:
        reason = "DeBERTa's attention overflows in it"
    elif numerics.device.type == "cpu" and sees_only_padding():
        reason = (
            "image_size is too small for it on a CPU: where a map is narrower than a stride, oneDNN leaves gradients of"
            " convolutions unset"
        )
    if not reason:
        return numerics
    if asked != "auto":
        raise UserError(f"precision is {asked}, but {reason}: use precision=auto or fp32.")
    return Numerics(numerics.device, None, scaled=False)


def has_unseeing_columns(module: nn.Module, run: Callable[[], object]) -> bool:
    """Whether a strided convolution gets a map narrower than its stride, when `run` runs it in evaluation mode.

    There columns of its kernel meet nothing but padding, and oneDNN 3.10 gives whatever lay in memory as their
    gradient in bf16.
    """
    found: list[bool] = []

    def look(one: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(one, nn.Conv2d):
            found.append(inputs[0].shape[-1] < one.stride[1] and one.kernel_size[1] > 1)

    hooks = [one.register_forward_hook(look) for one in module.modules() if isinstance(one, nn.Conv2d)]
    modes = {one: one.training for one in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            run()
    finally:
        for one, mode in modes.items():
            one.training = mode
        for hook in hooks:
            hook.remove()
    return any(found)


def _fastest_on_gpu() -> Literal["bf16", "fp16"]:
    return "bf16" if torch.cuda.is_bf16_supported(False) else "fp16"


def _fastest_on_cpu() -> Literal["bf16", "fp32"]:
    """Without such instructions bf16 would have to be emulated."""
    found = torch.cpu.get_capabilities()
    return "bf16" if any(found.get(name, False) for name in _BF16_PRODUCTS) else "fp32"
