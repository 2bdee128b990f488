"""Bitwise comparison of job outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.job.resume import CHANGEABLE
from sagemaker_simulator import JobFolder

MAY_DIFFER = {*CHANGEABLE, "resume", "s3_uri", "checkpoint_s3_uri"}


@dataclass(frozen=True)
class Left:
    """The outputs that an uninterrupted and an interrupted job must have in common.

    Attributes:
        metrics: without the interruption history.
        of_the_artifact: the same, from the metrics file next to the weights.
        report: without the interruption history, wall-clock findings, times, and settings that a restart may change.
        files: other files of the artifact and of the output, by name; not the report page, which shows times.
    """

    tensors: dict[str, Tensor]
    metrics: dict[str, Any]
    of_the_artifact: dict[str, Any]
    report: dict[str, Any]
    files: dict[str, bytes]


def left_in(folder: JobFolder) -> Left:
    """Everything in `model/` and `output/data/`."""
    metrics, beside_the_weights = (_metrics_in(place) for place in (folder.output_data, folder.model))
    paths = [path for root in (folder.model, folder.output_data) for path in sorted(root.rglob("*")) if path.is_file()]
    told = {"model.safetensors", "metrics.json", "report.json", "report.html"}
    others = [path for path in paths if path.name not in told]
    files = {path.relative_to(folder.root).as_posix(): path.read_bytes() for path in others}
    tensors = load_file(folder.model / "model.safetensors")
    return Left(tensors, metrics, beside_the_weights, _report_in(folder), files)


def _metrics_in(place: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((place / "metrics.json").read_text("utf-8"))
    assert metrics.pop("interruptions")["starts"] >= 1
    return metrics


def _report_in(folder: JobFolder) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder.output_data / "report.json").read_text("utf-8"))
    del report["interruptions"], report["machine_findings"], report["time"], report["cost"]["seconds"]
    for asked in (report["asked"]["hyperparameters"], report["asked"]["effective"]):
        for name in MAY_DIFFER & asked.keys():
            del asked[name]
    return report


def account_in(folder: JobFolder) -> dict[str, float]:
    """The interruption history in the job's metrics."""
    account: dict[str, float] = json.loads((folder.output_data / "metrics.json").read_text("utf-8"))["interruptions"]
    return account


def assert_same_bits(found: Left, expected: Left) -> None:
    """Assert that both are bitwise identical."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        assert tensor.dtype == other.dtype
        assert tensor.shape == other.shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), name
    assert found.metrics == expected.metrics
    assert found.of_the_artifact == expected.of_the_artifact
    differing = [name for name in expected.report | found.report if found.report.get(name) != expected.report.get(name)]
    assert not differing, [(name, found.report.get(name), expected.report.get(name)) for name in differing]
    assert found.files == expected.files
