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

MAY_DIFFER = {*CHANGEABLE, "processes_per_host", "sharding", "resume", "s3_uri", "checkpoint_s3_uri"}


@dataclass(frozen=True)
class JobOutput:
    """The outputs that an uninterrupted and an interrupted job must have in common.

    Attributes:
        metrics: without the interruption history.
        artifact_metrics: the same, from the metrics file next to the weights.
        report: without the interruption history, wall-clock findings, times, and settings that a restart may change.
        files: other files of the artifact and of the output, by name; not the report page, which shows times.
    """

    tensors: dict[str, Tensor]
    metrics: dict[str, Any]
    artifact_metrics: dict[str, Any]
    report: dict[str, Any]
    files: dict[str, bytes]


def read_output(folder: JobFolder) -> JobOutput:
    """Everything in `model/` and `output/data/`."""
    metrics, artifact_metrics = (_metrics_in(folder) for folder in (folder.output_data, folder.model))
    paths = [path for root in (folder.model, folder.output_data) for path in sorted(root.rglob("*")) if path.is_file()]
    compared_files = {"model.safetensors", "metrics.json", "report.json", "report.html"}
    other_paths = [path for path in paths if path.name not in compared_files]
    files = {path.relative_to(folder.root).as_posix(): path.read_bytes() for path in other_paths}
    tensors = load_file(folder.model / "model.safetensors")
    return JobOutput(tensors, metrics, artifact_metrics, _report_in(folder), files)


def _metrics_in(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert metrics.pop("interruptions")["starts"] >= 1
    return metrics


def _report_in(folder: JobFolder) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder.output_data / "report.json").read_text("utf-8"))
    del report["interruptions"], report["machine_findings"], report["time"], report["cost"]["seconds"]
    for settings in (report["asked"]["hyperparameters"], report["asked"]["effective"]):
        for name in MAY_DIFFER & settings.keys():
            del settings[name]
    return report


def read_run_history(folder: JobFolder) -> dict[str, float]:
    """The interruption history in the job's metrics."""
    history: dict[str, float] = json.loads((folder.output_data / "metrics.json").read_text("utf-8"))["interruptions"]
    return history


def assert_same_bits(output: JobOutput, expected: JobOutput) -> None:
    """Assert that both are bitwise identical."""
    assert output.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        actual = output.tensors[name]
        assert tensor.dtype == actual.dtype
        assert tensor.shape == actual.shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), actual.reshape(-1).view(torch.uint8)), name
    assert output.metrics == expected.metrics
    assert output.artifact_metrics == expected.artifact_metrics
    differing = [
        name for name in expected.report | output.report if output.report.get(name) != expected.report.get(name)
    ]
    assert not differing, [(name, output.report.get(name), expected.report.get(name)) for name in differing]
    assert output.files == expected.files
