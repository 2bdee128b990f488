"""Small checkpoint states with every awkward value, and their bitwise comparison."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.checkpoint import CheckpointInfo, Specification

SPECIFICATION = Specification.of({"epochs": 3, "learning_rate": 1e-3})


@dataclass
class Holder:
    """A stateful object whose state the tests set."""

    state: dict[Any, Any]

    def state_dict(self) -> Mapping[str, Any]:
        return self.state


def about(step: int, *, best: bool = False, kind: str = "periodic") -> CheckpointInfo:
    return CheckpointInfo(step, kind, SPECIFICATION, best=best)


def parts_at(step: int) -> dict[str, Holder]:
    """A job's state in which every file differs between steps."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(7, 3, generator=generator)
    moments = {
        0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(7, 3, generator=generator).to(torch.bfloat16)}
    }
    return {
        "model": Holder({"weight": weight, "bias": torch.arange(5) + step, "seen": step}),
        "optimizer": Holder({"state": moments, "param_groups": [{"lr": 0.1 / (step + 1), "betas": (0.9, 0.999)}]}),
        "progress": Holder({"step": step, "best": None, "worst": float("inf"), "name": "é\n"}),
    }


def same(one: object, other: object) -> bool:
    """Whether two nested states are equal in types, order and every bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.dtype == other.dtype
            and one.stride() == other.stride()
            and one.shape == other.shape
            and bits(one) == bits(other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    return one == other


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_state_of(parts: Mapping[str, Any], step: int) -> bool:
    """Whether loaded parts are exactly those of a step."""
    expected = {name: part.state for name, part in parts_at(step).items()}
    return same(dict(parts), dict(sorted(expected.items())))
