"""Training steps outside of jobs, on generated inputs that are already on the device."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.runtime.precision import choose_numerics
from gpu_check.jobs import synchronize
from gpu_check.scale import Scale
from gpu_check.tasks import CLASSES, IMAGE_MODEL, TEXT_MODEL, build_text_model

EQUAL_BITS = "equal bits"
_TOKENS = 64
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """A model in training mode, one batch, and the forward pass in the precision that jobs choose on this device."""

    name: str
    model: nn.Module
    inputs: Mapping[str, Tensor]
    targets: Tensor
    forward: Callable[[Mapping[str, Tensor]], Tensor]

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that jobs use by default."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)


def choose_device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image_workload(scale: Scale) -> Workload:
    """ResNet-18, channels-last, with batches of normal noise."""
    from torchvision.models import get_model

    device = choose_device()
    torch.manual_seed(0)
    model: nn.Module = get_model(IMAGE_MODEL, weights=None, num_classes=CLASSES)
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # not in torch's stub
    shape = (scale.step_batch, 3, scale.image_size, scale.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    inputs = {"x": pixels.contiguous(memory_format=torch.channels_last)}
    return Workload("ResNet-18", model, inputs, _targets(scale, device), _forward(model, device))


def text_workload(scale: Scale) -> Workload:
    """The text model with batches of random tokens."""
    device = choose_device()
    model: nn.Module = build_text_model(scale).to(device).train()
    ids = torch.randint(4, 30_000, (scale.step_batch, _TOKENS), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    return Workload(TEXT_MODEL, model, inputs, _targets(scale, device), _forward(model, device))


def _targets(scale: Scale, device: torch.device) -> Tensor:
    return (torch.arange(scale.step_batch) % CLASSES).to(device)


def _forward(model: nn.Module, device: torch.device) -> Callable[[Mapping[str, Tensor]], Tensor]:
    numerics = choose_numerics("auto", device)

    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        with numerics.context():
            output = model(**inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.float()

    return forward


def plain_step(workload: Workload) -> Callable[[], None]:
    """A step on one batch, as in a bare PyTorch loop."""
    optimizer = workload.optimizer()

    def step() -> None:
        loss = nn.functional.cross_entropy(workload.forward(workload.inputs), workload.targets)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_per_step(step: Callable[[], None], count: int) -> float:
    """Mean wall time of `count` steps after up to three others, from and to an idle device."""
    torch.manual_seed(2)
    for _ in range(min(_WARM_UP, count)):
        step()
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize()
    return (time.perf_counter() - start) / count


def digest(model: nn.Module) -> str:
    """SHA-256 of all bits of the parameters and buffers."""
    result = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        result.update(name.encode())
        result.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def bits(first: object, second: object) -> str:
    """Words for the comparison of two digests."""
    return EQUAL_BITS if first == second else "different"


def milliseconds(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds * 1000:.2f}"
