"""What a job left behind, compared bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sagemaker_simulator import JobFolder


@dataclass(frozen=True)
class Left:
    """What an uninterrupted and an interrupted job must have in common.

    Attributes:
        metrics: without the account of interruptions, the only thing that may differ.
        files: other files of the artifact and of the output, by name.
    """

    tensors: dict[str, Tensor]
    metrics: dict[str, Any]
    files: dict[str, bytes]


def left_in(folder: JobFolder) -> Left:
    """Everything in `model/` and `output/data/`."""
    metrics = json.loads((folder.output_data / "metrics.json").read_text("utf-8"))
    assert metrics.pop("interruptions")["starts"] >= 1
    paths = [path for root in (folder.model, folder.output_data) for path in sorted(root.rglob("*")) if path.is_file()]
    others = [path for path in paths if path.name not in {"model.safetensors", "metrics.json"}]
    files = {path.relative_to(folder.root).as_posix(): path.read_bytes() for path in others}
    return Left(load_file(folder.model / "model.safetensors"), metrics, files)


def account_in(folder: JobFolder) -> dict[str, float]:
    """The account of interruptions in the job's metrics."""
    account: dict[str, float] = json.loads((folder.output_data / "metrics.json").read_text("utf-8"))["interruptions"]
    return account


def assert_same_bits(found: Left, expected: Left) -> None:
    """Nothing differs, not in a single bit."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        assert tensor.dtype == other.dtype
        assert tensor.shape == other.shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), name
    assert found.metrics == expected.metrics
    assert found.files == expected.files


def lines_of(log: Path) -> list[str]:
    """The metric lines of a log."""
    return [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.startswith("epoch=")]
