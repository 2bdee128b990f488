"""Whole jobs under an `/opt/ml` in a temporary folder: as the image runs them, or within the test's own process.

A separate process takes seconds to import torch, so only the tests that need one start it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from finetune import entry
from sagemaker_simulator import Channel, JobFolder, Storage, TrainingJob, TrainingRequest, lay_out, run_job

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (sys.executable, str(ROOT / "container" / "train.py"))
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
METRIC = re.compile(r"validation:accuracy=([0-9.]+);")
"""Metric definition, as a user would pass it to the platform."""
EPOCH = re.compile(r"^epoch=[0-9]+; .*", re.MULTILINE)


@dataclass(frozen=True)
class FinishedJob:
    """A finished job.

    Attributes:
        archive: its `model.tar.gz`, if the job ran in its own process.
    """

    exit_code: int
    log: str
    folder: JobFolder
    archive: Path | None = None

    @property
    def failure(self) -> str:
        """Content of the failure file; empty if there is none."""
        return self.folder.failure.read_text("utf-8") if self.folder.failure.exists() else ""

    def metrics(self) -> dict[str, Any]:
        """The job's metrics; untyped, because the values differ too much in kind."""
        loaded: dict[str, Any] = json.loads((self.folder.output_data / "metrics.json").read_text("utf-8"))
        return loaded

    def artifact(self) -> dict[str, Any]:
        """The artifact's metadata."""
        loaded: dict[str, Any] = json.loads((self.folder.model / "artifact.json").read_text("utf-8"))
        return loaded

    def weights(self) -> bytes:
        """All bits of the weights."""
        return (self.folder.model / "model.safetensors").read_bytes()

    def predictions(self, part: str = "validation") -> list[dict[str, str]]:
        """The predictions for one split, one row per record."""
        with (self.folder.output_data / f"{part}_predictions.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def accuracies(self) -> list[float]:
        """Validation accuracy of every epoch, parsed from the epoch lines as by the platform."""
        return [float(value) for line in EPOCH.findall(self.log) for value in METRIC.findall(line)]


def train(root: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str] | None = None) -> FinishedJob:
    """Run the image's `train` to its end in a separate process."""
    job = TrainingJob(build_request(channels, hyperparameters), TRAIN, Storage(root / "s3"))
    result = run_job(job, root / "opt-ml")
    return FinishedJob(result.exit_code, result.log_text(), result.folder, result.model)


def run_training(
    root: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str] | None = None
) -> FinishedJob:
    """Run a job to its end within this process, from the request files to the exit code."""
    folder = lay_out(root / "opt-ml", build_request(channels, hyperparameters))
    return run_request(folder)


def run_request(folder: JobFolder) -> FinishedJob:
    """Run the job prepared in a folder within this process."""
    logger = logging.getLogger("finetune")
    previous = (list(logger.handlers), logger.level, logger.propagate)
    log = io.StringIO()
    logger.handlers.clear()
    variables = {"SAGEMAKER_BASE_DIR": str(folder.root)}
    try:
        with redirect_stdout(log), mock.patch.dict("os.environ", variables):
            exit_code = entry.run()
    finally:
        logger.handlers[:], logger.propagate = previous[0], previous[2]
        logger.setLevel(previous[1])
    return FinishedJob(exit_code, log.getvalue(), folder)


def train_in_folder(folder: Path, environment: Mapping[str, str] | None = None) -> FinishedJob:
    """Run the image's `train` on a prepared folder, in a separate process."""
    variables = {"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(folder), **ENVIRONMENT, **(environment or {})}
    completed = subprocess.run(TRAIN, env=variables, capture_output=True, text=True, check=False, cwd=folder)
    return FinishedJob(completed.returncode, completed.stdout + completed.stderr, JobFolder(folder))


def succeeded(job: FinishedJob) -> FinishedJob:
    """The same job, after asserting that it succeeded."""
    assert job.exit_code == 0, job.log
    assert not job.failure
    return job


def build_request(channels: Mapping[str, Path], hyperparameters: Mapping[str, str] | None = None) -> TrainingRequest:
    """A request for a job without checkpoints, since none of these jobs is resumed."""
    return TrainingRequest(
        channels=tuple(Channel(name, source) for name, source in channels.items()),
        hyperparameters=hyperparameters or {},
        environment=ENVIRONMENT,
        checkpoint_path=None,
    )
