"""Trains a small model for a few steps, to find a broken device, driver or installation before a job does."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from finetune.errors import PlatformError
from finetune.runtime.precision import choose_numerics

_STEPS = 3
_RECORDS, _CLASSES, _SIDE, _WIDTH = 16, 4, 16, 32


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Result of the training steps.

    Attributes:
        precision: floating-point type that a job would use.
        seconds: seconds of the last step, after the first ones have compiled and loaded kernels.
    """

    precision: str
    seconds: float


def run_self_test(device: torch.device) -> SelfTest:
    """Run forward and backward passes and optimizer steps on a device.

    Raises:
        PlatformError: an operation fails, or its result is wrong.
    """
    try:
        numerics = choose_numerics("auto", device)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(_RECORDS, 3, _SIDE, _SIDE, generator=generator).to(device)
        targets = (torch.arange(_RECORDS) % _CLASSES).to(device)
        layers = nn.Conv2d(3, _WIDTH, 3), nn.BatchNorm2d(_WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(_WIDTH, _CLASSES)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        losses, seconds = [], 0.0
        for _ in range(_STEPS):
            started = time.perf_counter()
            with numerics.context():
                loss = functional.cross_entropy(model(images).float(), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
            losses.append(loss.item())  # waits for the device
            seconds = time.perf_counter() - started
        product = (torch.full((64, 64), 2.0, device=device) @ torch.ones(64, 64, device=device)).cpu()
    except (RuntimeError, OSError) as error:
        raise PlatformError(f"A training step on {device} failed: {str(error).partition(chr(10))[0]}") from error
    if not all(map(math.isfinite, losses)) or losses[-1] >= losses[0] or not bool((product == 128.0).all()):
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        raise PlatformError(f"{device} computes wrong results: losses {shown}, expected decreasing ones.")
    return SelfTest(numerics.name, seconds)
