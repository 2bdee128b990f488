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
class StaticState:
    """A stateful object whose state the tests set."""

    state: dict[Any, Any]

    def state_dict(self) -> Mapping[str, Any]:
        return self.state


def checkpoint_info(step: int, *, best: bool = False, kind: str = "periodic") -> CheckpointInfo:
    return CheckpointInfo(step, kind, SPECIFICATION, best=best)


def make_parts(step: int) -> dict[str, StaticState]:
    """A job's state in which every file differs between steps."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(7, 3, generator=generator)
    optimizer_state = {
        0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(7, 3, generator=generator).to(torch.bfloat16)}
    }
    return {
        "model": StaticState({"weight": weight, "bias": torch.arange(5) + step, "seen": step}),
        "optimizer": StaticState(
            {"state": optimizer_state, "param_groups": [{"lr": 0.1 / (step + 1), "betas": (0.9, 0.999)}]}
        ),
        "progress": StaticState({"step": step, "best": None, "worst": float("inf"), "name": "é\n"}),
    }


def states_equal(first: object, second: object) -> bool:
    """Whether two nested states are equal in types, order and every bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return (
            first.dtype == second.dtype
            and first.stride() == second.stride()
            and first.shape == second.shape
            and bits(first) == bits(second)
        )
    if type(first) is not type(second):
        return False
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(states_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(states_equal(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, float) and isinstance(second, float):
        return struct.pack(">d", first) == struct.pack(">d", second)
    return first == second


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_state_at(parts: Mapping[str, Any], step: int) -> bool:
    """Whether loaded parts are exactly those of a step."""
    expected = {name: part.state for name, part in make_parts(step).items()}
    return states_equal(dict(parts), dict(sorted(expected.items())))
