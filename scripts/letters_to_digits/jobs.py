"""Runs training jobs as the image does, and reads their results from the artifacts."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from sagemaker_simulator import (
    Channel,
    Container,
    JobResult,
    Storage,
    TrainingJob,
    TrainingRequest,
    run_job,
    toolkit_command,
)

MODULE = {"SAGEMAKER_TRAINING_MODULE": "finetune.entry:main"}


class JobFailedError(Exception):
    """A job ended without a model; the message gives the reason and the path of its log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of a job, from its own metrics.

    Attributes:
        trainable_parameters: number of trainable parameters.
        seconds: from start to end, including start-up and evaluation.
        accuracy: by channel.
        records: by channel.
        model: its `model.tar.gz`.
    """

    trainable_parameters: int
    seconds: float
    accuracy: Mapping[str, float]
    records: Mapping[str, int]
    model: Path


class Runner(Protocol):
    """Protocol of a job runner."""

    def run(self, name: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Outcome:
        """Run a job to its end.

        Raises:
            JobFailedError: it did not complete.
        """


@dataclass(frozen=True, slots=True)
class Workshop:
    """Runs jobs on this machine, in containers or as processes.

    Attributes:
        folder: root of a folder per job, with its `/opt/ml`, its log and its artifacts.
        echo: a stream for the jobs' logs, or `None`.
        container: how jobs run in an image, or `None`.
    """

    folder: Path
    echo: TextIO | None = None
    container: Container | None = None

    def run(self, name: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Outcome:
        """Run a job to its end.

        Raises:
            JobFailedError: it did not complete.
        """
        request = TrainingRequest(
            name=name,
            channels=tuple(Channel(channel, source) for channel, source in channels.items()),
            hyperparameters=hyperparameters,
            environment={} if self.container else MODULE,
        )
        command = ("train",) if self.container else toolkit_command()
        storage = Storage(self.folder / name / "s3")
        job = TrainingJob(request, command, storage, echo=self.echo, container=self.container)
        return outcome_of(run_job(job, self.folder / name / "opt-ml"))


def outcome_of(result: JobResult) -> Outcome:
    """Read the results of a job from the `metrics.json` of its `model.tar.gz`.

    Raises:
        JobFailedError: the job failed.
    """
    if result.status != "Completed" or result.model is None:
        reason = (result.failure_reason or result.status).splitlines()[0]
        raise JobFailedError(f"{reason}\n    Its log: {result.log}")
    with tarfile.open(result.model) as archive:
        member = archive.extractfile("metrics.json")
        assert member is not None  # noqa: S101 - None only for a directory of that name
        metrics = json.load(member)
    return read_metrics(metrics, result.seconds, result.model)


def read_metrics(metrics: Mapping[str, Any], seconds: float, model: Path) -> Outcome:
    """Parse the `metrics.json` of a model.

    Args:
        metrics: its content.
        seconds: duration of the job.
        model: path of the artifact.
    """
    evaluated = {channel: values for channel, values in metrics.items() if "accuracy" in values}
    return Outcome(
        trainable_parameters=int(metrics["job"]["trainable_parameters"]),
        seconds=seconds,
        accuracy={channel: float(values["accuracy"]) for channel, values in evaluated.items()},
        records={channel: int(values["records"]) for channel, values in evaluated.items()},
        model=model,
    )
