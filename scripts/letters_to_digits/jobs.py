"""Runs training jobs just as the image does, and reads from their artifacts how they went."""

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
    """A job ended without a model; the message says why, and where its log lies."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job reached, by its own account.

    Attributes:
        trainable_parameters: how many numbers were learnt.
        seconds: from start to end, start-up and evaluation included.
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
    """Something that runs jobs."""

    def run(self, name: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Outcome:
        """Run a job to its end.

        Raises:
            JobFailedError: it ended otherwise than completed.
        """


@dataclass(frozen=True, slots=True)
class Workshop:
    """Runs jobs on this machine, in containers or as processes.

    Attributes:
        folder: gets a folder per job, with its `/opt/ml`, its log and its artifacts.
        echo: a stream that gets the jobs' logs, or `None`.
        container: how jobs run in an image, or `None`.
    """

    folder: Path
    echo: TextIO | None = None
    container: Container | None = None

    def run(self, name: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Outcome:
        """Run a job to its end.

        Raises:
            JobFailedError: it ended otherwise than completed.
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
    """Read what a job says about itself in the `metrics.json` of its `model.tar.gz`.

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
    """What the `metrics.json` of a model says.

    Args:
        metrics: its content.
        seconds: that the job took.
        model: where the artifact lies.
    """
    evaluated = {channel: found for channel, found in metrics.items() if "accuracy" in found}
    return Outcome(
        trainable_parameters=int(metrics["job"]["trainable_parameters"]),
        seconds=seconds,
        accuracy={channel: float(found["accuracy"]) for channel, found in evaluated.items()},
        records={channel: int(found["records"]) for channel, found in evaluated.items()},
        model=model,
    )
