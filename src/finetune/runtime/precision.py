"""Selects the floating-point type of the model, by request and by hardware."""

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
"""`model_type`s of transformers that overflow: they mask scores of the autocast type with the float32 minimum."""
# PyTorch's names of the CPU instructions that multiply bf16 and accumulate in float32.
_BF16_PRODUCTS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Numerics:
    """Floating-point types of a job; weights and optimizer state stay in float32.

    Attributes:
        device: device of the model.
        autocast: type of matrix products and convolutions, `None` for float32 throughout.
        scaled: whether the loss is scaled so that float16 gradients do not underflow.
    """

    device: torch.device
    autocast: torch.dtype | None
    scaled: bool

    @property
    def name(self) -> Literal["fp32", "bf16", "fp16"]:
        """The corresponding value of `precision`."""
        if self.autocast is None:
            return "fp32"
        return "fp16" if self.autocast is torch.float16 else "bf16"

    def context(self) -> AbstractContextManager[object]:
        """The context manager for forward passes."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def choose_numerics(precision: Precision, device: torch.device) -> Numerics:
    """Resolve `auto`: bf16 if the GPU or CPU multiplies in it, fp16 on older GPUs, fp32 elsewhere.

    With fp32 on a GPU, PyTorch's defaults apply: TF32 for convolutions, but not for matrix products.

    Raises:
        UserError: fp16 without a GPU, where products are slower and gradients underflow.
    """
    on_gpu = device.type == "cuda"
    if precision == "fp16" and not on_gpu:
        raise UserError("precision is fp16, but there is no GPU: use precision=auto, fp32 or bf16.")
    if precision == "auto":
        precision = _fastest_on_gpu() if on_gpu else _fastest_on_cpu()
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return Numerics(device, dtype, scaled=dtype is torch.float16)


def supported_numerics(
    numerics: Numerics, module: nn.Module, requested: Precision, has_padding_only: Callable[[], bool]
) -> Numerics:
    """The same types, or float32 if the model does not support less.

    Raises:
        UserError: the user requests less.
    """
    if numerics.autocast is None:
        return numerics
    reason = ""
    if getattr(getattr(module, "config", None), "model_type", None) in _ONLY_FLOAT32:
        reason = "DeBERTa's attention overflows in it"
    elif numerics.device.type == "cpu" and has_padding_only():
        reason = (
            "image_size is too small for it on a CPU: where a map is narrower than a stride, oneDNN leaves gradients of"
            " convolutions unset"
        )
    if not reason:
        return numerics
    if requested != "auto":
        raise UserError(f"precision is {requested}, but {reason}: use precision=auto or fp32.")
    return Numerics(numerics.device, None, scaled=False)


def has_padding_only_columns(module: nn.Module, run: Callable[[], object]) -> bool:
    """Whether a strided convolution gets a feature map narrower than its stride when `run` runs it in evaluation mode.

    Some kernel columns then see only padding, and in bf16 oneDNN 3.10 returns uninitialized memory as their gradient.
    """
    padding_only: list[bool] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            padding_only.append(inputs[0].shape[-1] < layer.stride[1] and layer.kernel_size[1] > 1)

    handles = [layer.register_forward_hook(hook) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    modes = {layer: layer.training for layer in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            run()
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for handle in handles:
            handle.remove()
    return any(padding_only)


def _fastest_on_gpu() -> Literal["bf16", "fp16"]:
    return "bf16" if torch.cuda.is_bf16_supported(False) else "fp16"


def _fastest_on_cpu() -> Literal["bf16", "fp32"]:
    """bf16 if the CPU has instructions for it; otherwise it would be emulated."""
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name, False) for name in _BF16_PRODUCTS) else "fp32"
