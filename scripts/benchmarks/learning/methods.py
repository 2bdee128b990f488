"""The tools that are compared: our jobs, and others with their defaults."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.peers.cell import Cell
from benchmarks.learning.tasks import Task
from benchmarks.sides import ROOT
from sagemaker_simulator import Channel, TrainingRequest, lay_out

IMAGE_SIZE = 160
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class MethodFailedError(RuntimeError):
    """A method ended without predictions; the message is the end of its output."""


@dataclass(frozen=True, slots=True)
class Result:
    """Predictions of one method for one cell.

    Attributes:
        predictions: Labels of the test records in their order.
        seconds: Processor time of the process and those it starts, with imports, training and prediction. Other work on
            the machine changes it less than wall time.
    """

    predictions: Sequence[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Method:
    """A tool, or a setting of ours.

    Attributes:
        name: Name in tables.
        kinds: What it classifies.
        environment: Name of its environment (`scripts/environments`); empty for ours.
        module: Script in `benchmarks.learning.peers`.
        hyperparameters: Of our job.
        max_records: Largest training set for which it ends in minutes on two cores.
    """

    name: str
    kinds: Sequence[str] = ("images", "texts")
    environment: str = ""
    module: str = ""
    hyperparameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    max_records: int = 10**9

    @property
    def is_ours(self) -> bool:
        """Whether it is our job."""
        return not self.environment

    def run(self, task: Task, cell: Cell, scratch: Path) -> Result:
        """Train and predict in processes of its own.

        Raises:
            MethodFailedError: It fails.
        """
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        before = _processor_seconds()
        predictions = self._ours(task, cell, scratch) if self.is_ours else self._peer(cell, scratch)
        return Result(predictions, _processor_seconds() - before)

    def _peer(self, cell: Cell, scratch: Path) -> Sequence[str]:
        python = environment(self.environment) / "bin" / "python"
        file, output = scratch / "cell.json", scratch / "result.json"
        (scratch / "work").mkdir()
        file.write_text(json.dumps(asdict(cell) | {"scratch": str(scratch / "work"), "output": str(output)}), "utf-8")
        command = (str(python), "-P", "-m", f"benchmarks.learning.peers.{self.module}", str(file))
        _run(command, {"PYTHONPATH": str(ROOT / "scripts")}, scratch)
        predictions: list[str] = json.loads(output.read_text("utf-8"))
        return predictions

    def _ours(self, task: Task, cell: Cell, scratch: Path) -> Sequence[str]:
        tables = {} if task.kind == "images" else {"text_column": "text", "label_column": "label"}
        sized = {"image_size": str(cell.image_size)} if task.kind == "images" else {}
        request = TrainingRequest(
            channels=tuple(
                Channel(name, path if path.is_dir() else path.parent)
                for name, path in (("train", Path(cell.train)), ("test", Path(cell.test)), ("model", Path(cell.model)))
            ),
            hyperparameters={"seed": str(cell.seed), **tables, **sized, **self.hyperparameters},
            checkpoint_path=None,
        )
        job = lay_out(scratch / "opt-ml", request)
        variables = {"PYTHONPATH": str(ROOT), "SAGEMAKER_BASE_DIR": str(job.root)}
        _run((sys.executable, str(ROOT / "container" / "train.py")), variables, scratch)
        with (job.output_data / "test_predictions.csv").open(newline="", encoding="utf-8") as file:
            return _in_order(task, list(csv.DictReader(file)))


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _in_order(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Predicted labels in the order of the names of images, or of the rows of a table."""
    if task.kind == "images":
        rows = sorted(rows, key=lambda row: Path(row["record"]).name)
    return [row["predicted_label"] for row in rows]


def _run(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ |= {**_OFFLINE, **variables}
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MethodFailedError("\n".join((done.stdout + done.stderr).splitlines()[-15:]))


def environment(name: str) -> Path:
    """The folder of an environment, which is installed at the first call."""
    command = (str(ROOT / "scripts" / "environment"), name)
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


METHODS = (
    Method("finetune"),
    Method("finetune, head", hyperparameters={"strategy": "feature_extraction"}),
    Method("finetune, partial", hyperparameters={"strategy": "partial"}),
    Method("finetune, full", hyperparameters={"strategy": "full"}),
    Method("logistic regression", environment="learning", module="logistic_regression"),
    Method("Trainer", environment="learning", module="trainer"),
    Method("fastai", ("images",), "learning", "fastai_learner"),
    # Its default makes all pairs of texts, whose number grows with the square of the records.
    Method("SetFit", ("texts",), "learning", "setfit_model", max_records=250),
    Method("AutoGluon", environment="autogluon", module="autogluon_predictor"),
)
