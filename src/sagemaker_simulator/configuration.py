"""Training requests, and the configuration files that the platform derives from them for the container.

The files follow "How Amazon SageMaker AI Provides Training Information" of the developer guide; the fields of
`resourceconfig.json` that the guide does not name are those seen in the logs of jobs on the platform.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from sagemaker_simulator.feeder import FeederOptions
from sagemaker_simulator.object_stream import PipeSource
from sagemaker_simulator.pipe_faults import find_fault

Placement = Literal["link", "copy"]

PLATFORM_ROOT = PurePosixPath("/opt/ml")
DEFAULT_CHECKPOINT_PATH = PLATFORM_ROOT / "checkpoints"

_JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_CHANNEL_NAME = re.compile(r"[A-Za-z0-9.\-_]{1,64}")


class RequestError(ValueError):
    """The platform would reject this request, or the simulator does not support it."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One input channel.

    Attributes:
        name: Name in `InputDataConfig`.
        source: A folder, or a single file, which becomes the only file in the channel's folder.
        placement: `link` takes no time or space; `copy` protects the source from a job that writes to its input.
        content_type: MIME type, or `None` if the request has none.
        distribution: `FullyReplicated` or `ShardedByS3Key`.
        pipe: Content sent through pipes; `None` for a channel in File mode.
        feeder_options: Behavior of the pipe feeder.
        shard: This host's number and the number of hosts that share the objects, for a channel in File mode.
    """

    name: str
    source: Path
    placement: Placement = "link"
    content_type: str | None = None
    distribution: Literal["FullyReplicated", "ShardedByS3Key"] = "FullyReplicated"
    pipe: PipeSource | None = None
    feeder_options: FeederOptions = field(default_factory=FeederOptions)
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if not _CHANNEL_NAME.fullmatch(self.name):
            raise RequestError(f"channel name {self.name!r}: 1 to 64 letters, digits, '.', '-' and '_' are allowed")
        if not self.source.exists():
            raise RequestError(f"channel {self.name!r}: {self.source} does not exist")
        fault = "" if self.pipe is None else find_fault(self.source, self.pipe)
        if fault:
            raise RequestError(f"channel {self.name!r}: {fault}")

    def on_host(self, number: int, count: int) -> Channel:
        """Return the channel of host `number`, from 0, of `count` hosts."""
        if self.distribution == "FullyReplicated":
            return self
        pipe = None if self.pipe is None else replace(self.pipe, shard=(number, count))
        return replace(self, pipe=pipe, shard=(number, count))

    def configuration(self) -> dict[str, str]:
        """Return the channel's entry in `inputdataconfig.json`."""
        entry = {} if self.content_type is None else {"ContentType": self.content_type}
        return entry | {
            "TrainingInputMode": "File" if self.pipe is None else "Pipe",
            "S3DistributionType": self.distribution,
            "RecordWrapperType": "RecordIO" if self.pipe is not None and self.pipe.wrapped else "None",
        }


@dataclass(frozen=True, slots=True)
class Resources:
    """The machines of a job from the view of one of them."""

    hosts: tuple[str, ...] = ("algo-1",)
    current_host: str = "algo-1"
    instance_type: str = "ml.m5.xlarge"
    instance_group: str = "homogeneousCluster"
    network_interface: str = "eth0"

    def __post_init__(self) -> None:
        if self.current_host not in self.hosts:
            raise RequestError(
                f"current host {self.current_host!r} is not in the list of hosts: {', '.join(self.hosts)}"
            )

    def configuration(self) -> dict[str, object]:
        """Return the content of `resourceconfig.json`."""
        hosts = sorted(self.hosts)
        group = {"instance_group_name": self.instance_group, "instance_type": self.instance_type, "hosts": hosts}
        return {
            "current_host": self.current_host,
            "current_instance_type": self.instance_type,
            "current_group_name": self.instance_group,
            "hosts": hosts,
            "instance_groups": [group],
            "network_interface_name": self.network_interface,
        }


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The part of `CreateTrainingJob` that is visible to the container.

    Attributes:
        name: Name of the job.
        channels: Input channels in any order, with unique names.
        hyperparameters: Strings by name, as in the request.
        environment: Environment variables that the request adds to those of the container.
        resources: The machines.
        region: AWS region, such as `us-east-1`.
        checkpoint_path: `LocalPath` of `CheckpointConfig`, below `/opt/ml`; `None` without checkpoint
            configuration.
        debug_hook: Content of `debughookconfig.json`, which is only written if this is set.
    """

    name: str = "local-job"
    channels: tuple[Channel, ...] = ()
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    region: str = "us-east-1"
    checkpoint_path: PurePosixPath | None = DEFAULT_CHECKPOINT_PATH
    debug_hook: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if not _JOB_NAME.fullmatch(self.name):
            raise RequestError(f"job name {self.name!r}: 1 to 63 letters, digits and inner hyphens are allowed")
        names = [channel.name for channel in self.channels]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise RequestError(f"channel {duplicates[0]!r} is given {names.count(duplicates[0])} times")
        for pipe_channel in (channel.name for channel in self.channels if channel.pipe is not None):
            for file_channel in (channel.name for channel in self.channels if channel.pipe is None):
                if re.fullmatch(re.escape(pipe_channel) + "_[0-9]+", file_channel):
                    raise RequestError(
                        f"channel {file_channel!r} has the path of a pipe of channel {pipe_channel!r}; rename it"
                    )
        if self.checkpoint_path is not None and not self.checkpoint_path.is_relative_to(PLATFORM_ROOT):
            raise RequestError(
                f"checkpoint path {self.checkpoint_path}: only folders under {PLATFORM_ROOT} are supported"
            )

    @property
    def arn(self) -> str:
        """Return an ARN in the platform's format, with the account of the guide's examples."""
        return f"arn:aws:sagemaker:{self.region}:111122223333:training-job/{self.name}"


def write_configuration(request: TrainingRequest, folder: Path, checkpoints: Path | None) -> None:
    """Write the JSON files of `input/config` into an existing folder.

    Args:
        request: The training request.
        folder: The job's `input/config`.
        checkpoints: Actual location of `/opt/ml/checkpoints`, or `None` for a job without checkpoints.
    """
    files: dict[str, object] = {
        "hyperparameters": dict(request.hyperparameters),
        "inputdataconfig": {channel.name: channel.configuration() for channel in request.channels},
        "resourceconfig": request.resources.configuration(),
    }
    if checkpoints is not None:
        uri = f"s3://simulated-bucket/{request.name}/checkpoints"
        files["checkpointconfig"] = {"S3Uri": uri, "LocalPath": str(checkpoints)}
    if request.debug_hook is not None:
        files["debughookconfig"] = dict(request.debug_hook)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
