"""Reads and checks the request within a second, before any expensive import."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config.channels import Channels, CheckedChannel, check_channels
from finetune.config.compat.aliases import OBJECTIVE
from finetune.config.faults import quoted
from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.data.tables.labelled_lines import has_several_labels
from finetune.errors import UserError, did_you_mean
from finetune.monitoring.metric_lines import METRICS
from finetune.sagemaker.config_files import JobFiles, read_job_files
from finetune.sagemaker.instance_groups import check_homogeneous
from finetune.sagemaker.paths import Paths, check_temporary_folder, check_writable

logger = logging.getLogger(__name__)

_NAMING = "Metric definitions must use the names in the log, as in docs/metric_definitions.json."

RECORD_PURPOSES = ("train", "validation", "test")
"""Purposes of the channels with records; the training channel comes first."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request and the paths of its files."""

    paths: Paths
    files: JobFiles
    spec: JobSpec
    channels: Channels

    @property
    def is_first_host(self) -> bool:
        """Whether this host writes checkpoints and the model."""
        return self.files.resources.current_host == self.files.resources.hosts[0]

    def folders(self) -> dict[str, Path]:
        """Folder of every channel in File mode, by purpose."""
        return {
            purpose: self.paths.channel(channel.name)
            for purpose, channel in self.channels.by_purpose.items()
            if not channel.piped
        }

    def pipes(self) -> dict[str, CheckedChannel]:
        """Every channel in Pipe mode, by purpose; the training channel comes first."""
        purposes = self.channels.by_purpose
        channels = {name: purposes[name] for name in RECORD_PURPOSES if name in purposes}
        return {purpose: channel for purpose, channel in channels.items() if channel.piped}

    def checkpoint_folder(self) -> Path | None:
        """Folder for checkpoints: the one that the platform synchronizes, or the default if the user configures them.

        `None` without either, since no checkpoint would outlive the job.
        """
        folder = self.files.checkpoints or self.paths.checkpoints
        requested = self.spec.checkpoint.s3_uri is not None or self.spec.checkpoint.interval_steps is not None
        return folder if requested or self.files.checkpoints is not None or folder.is_dir() else None

    def with_class_names(self, names: tuple[str, ...]) -> Request:
        """The request with these `class_names`."""
        data = self.spec.data.model_copy(update={"class_names": names})
        return replace(self, spec=replace(self.spec, data=data))

    def is_sharded(self, channel: str) -> bool:
        """Whether the objects of a channel are sharded over several hosts; the shard of a host may be empty."""
        files = self.files
        return files.channels[channel].distribution == "shardedbys3key" and len(files.resources.hosts) > 1

    def sharded_purposes(self) -> set[str]:
        """Purposes of the channels with records whose objects are sharded over several hosts."""
        channels = self.channels.by_purpose
        return {name for name in RECORD_PURPOSES if name in channels and self.is_sharded(channels[name].name)}


def read_request(paths: Paths) -> Request:
    """Read the platform's files, check hyperparameters and channels, and log translated or ignored settings.

    Raises:
        UserError: the request is invalid; lists all faults of hyperparameters, or of channels, at once.
        PlatformError: a file of the platform cannot be read, or an output folder cannot be written.
    """
    files = read_job_files(paths)
    check_homogeneous(files.resources.instance_groups)
    spec = parse_hyperparameters(files.hyperparameters, files.channels.keys())
    channels = check_channels(files.channels, spec)
    if _has_lines_with_several_labels(paths, files, spec, channels):
        logger.info("Lines of the channel 'train' have several labels: multi_label=true, as BlazingText reads them.")
        spec = replace(spec, data=spec.data.model_copy(update={"multi_label": True}))
    for note in (*spec.notes, *channels.notes):
        logger.info("%s", note)
    check_objective(spec, channels.by_purpose)
    request = Request(paths, files, spec, channels)
    _refuse_sharded_channels(request)
    if request.is_first_host:
        _check_folders(request)
    return request


def _has_lines_with_several_labels(paths: Paths, files: JobFiles, spec: JobSpec, channels: Channels) -> bool:
    """Whether lines of BlazingText have several labels, which it needs no hyperparameter for.

    Not of channels whose objects are distributed over the hosts, which would have to agree.
    """
    train = channels.by_purpose.get("train")
    is_blazingtext = spec.dialect is not None and spec.dialect.name == "blazingtext"
    if not is_blazingtext or "multi_label" in spec.set_by_user or train is None or train.piped:
        return False
    folder = paths.channel(train.name)
    return (
        folder.is_dir() and files.channels[train.name].distribution != "shardedbys3key" and has_several_labels(folder)
    )


def _check_folders(request: Request) -> None:
    """Check by writing that the folders for the model, outputs and checkpoints are writable.

    Raises:
        PlatformError: a folder cannot be written.
    """
    checkpoints = request.checkpoint_folder() if request.spec.strategy.trains else None
    folders = (request.paths.model, request.paths.output_data, *([] if checkpoints is None else [checkpoints]))
    check_temporary_folder()
    check_writable(*folders)


def _refuse_sharded_channels(request: Request) -> None:
    records = {request.channels.by_purpose[purpose].name for purpose in request.sharded_purposes()}
    others = [name for name in request.files.channels if request.is_sharded(name) and name not in records]
    if others:
        raise UserError(
            f"Channel {others[0]!r} is distributed over {len(request.files.resources.hosts)} hosts (ShardedByS3Key),"
            " but every host needs all of it: use FullyReplicated."
        )


def check_objective(spec: JobSpec, purposes: Collection[str]) -> None:
    """Check that the job logs the objective metric of the tuner.

    Args:
        spec: the checked hyperparameters.
        purposes: purposes of the channels, such as `train`.

    Raises:
        UserError: the job never logs this metric; the message gives the reason and the metrics it does log.
    """
    if spec.objective is None:
        return
    parts = _evaluated_parts(spec, purposes)
    printed = [
        metric.name
        for metric in METRICS
        if metric.name.partition(":")[0] in parts and (spec.data.multi_label or not metric.multi_label)
    ]
    if spec.objective in printed:
        return
    metrics = {metric.name: metric for metric in METRICS}
    if spec.objective in metrics and metrics[spec.objective].multi_label and not spec.data.multi_label:
        reason = "only jobs with multi_label=true have it."
    elif spec.objective in metrics:
        reason = f"{_absence_reason(spec, spec.objective.partition(':')[0])}."
    else:
        near = did_you_mean(spec.objective, printed)
        reason = f"no metric has this name{near}. {_NAMING}"
    raise UserError(
        f"{OBJECTIVE}={quoted(spec.objective)} is never printed, so the tuner would find no objective: {reason} This"
        f" job prints {', '.join(printed) or 'no metrics'}."
    )


def _evaluated_parts(spec: JobSpec, purposes: Collection[str]) -> set[str]:
    evaluates = not spec.strategy.trains
    parts = {"validation", "test"} & set(purposes)
    if not evaluates and "train" in purposes:
        parts |= {"train"} | ({"validation"} if spec.data.validation_fraction > 0 else set())
    return parts or {"train"}


def _absence_reason(spec: JobSpec, part: str) -> str:
    if part == "test":
        return "there is no channel 'test'"
    if part == "train":
        return "strategy='evaluate' trains nothing, and has other records to evaluate"
    if not spec.strategy.trains:
        return "there is no channel 'validation', and strategy='evaluate' holds nothing out"
    return "nothing is held out: give a channel 'validation', or validation_fraction above 0"
