"""The JSON files of `input/config` as typed values; each of them is optional.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import JobError, PlatformError, UserError
from finetune.sagemaker.instance_groups import InstanceGroup, parse_instance_groups
from finetune.sagemaker.paths import Paths

HYPERPARAMETERS = "hyperparameters.json"
INPUT_DATA = "inputdataconfig.json"
RESOURCES = "resourceconfig.json"
CHECKPOINTS = "checkpointconfig.json"
TENSORBOARD = "tensorboardoutputconfig.json"
DEBUG_HOOK = "debughookconfig.json"

MAX_DEPTH = 100
MAX_SHOWN_LENGTH = 60
_BRACKETS = re.compile(r"[\[\]{}]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """One entry of `inputdataconfig.json`.

    Attributes:
        input_mode: `file` or `pipe`, in lower case; FastFile is reported as File.
        content_type: MIME type as the user gave it; without one the format is detected from the content.
        record_wrapper: `none` or `recordio`, in lower case.
        distribution: `fullyreplicated` or `shardedbys3key`, in lower case.
    """

    input_mode: str = "file"
    content_type: str | None = None
    record_wrapper: str = "none"
    distribution: str = "fullyreplicated"


@dataclass(frozen=True, slots=True)
class Resources:
    """`resourceconfig.json`: this host among the job's hosts."""

    current_host: str = "algo-1"
    hosts: tuple[str, ...] = ("algo-1",)
    network_interface: str | None = None
    instance_type: str | None = None
    instance_groups: tuple[InstanceGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Content of all configuration files of the platform.

    Attributes:
        hyperparameters: as delivered, all strings.
        channels: by name, sorted.
        resources: hosts and instance type.
        checkpoints: folder that the platform synchronizes, if it names one.
        tensorboard: folder for TensorBoard events, if the platform names one.
        debug_hook: the configuration file of SageMaker Debugger's hook, if there is one.
    """

    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, ChannelConfig] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    checkpoints: Path | None = None
    tensorboard: Path | None = None
    debug_hook: Path | None = None


def read_job_files(paths: Paths) -> JobFiles:
    """Read the existing files.

    Without `inputdataconfig.json` every folder under `input/data` is treated as a channel in File mode.

    Raises:
        PlatformError: a file is not a JSON object of the documented form.
        UserError: a hyperparameter contains a value that no job can use.
    """
    inputs = _read_object(paths.config / INPUT_DATA)
    channels = _folders_as_channels(paths.data) if inputs is None else _channels(inputs, paths.config / INPUT_DATA)
    hook = Path(os.environ.get("SMDEBUG_CONFIG_FILE_PATH") or paths.config / DEBUG_HOOK)
    return JobFiles(
        hyperparameters=_hyperparameters(paths.config / HYPERPARAMETERS),
        channels=channels,
        resources=_resources(paths.config / RESOURCES),
        checkpoints=_local_path(paths.config / CHECKPOINTS),
        tensorboard=_local_path(paths.config / TENSORBOARD),
        debug_hook=hook if hook.is_file() else None,
    )


def _local_path(path: Path) -> Path | None:
    local = (_read_object(path) or {}).get("LocalPath")
    if not isinstance(local, str) or not local:
        return None
    if _fault(local):
        raise PlatformError(f"{path}: LocalPath {_shortened(local)} {_fault(local)}.")
    return Path(local)


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"{path} cannot be read: {error}.") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        fault: type[JobError] = UserError if path.name == HYPERPARAMETERS else PlatformError
        raise fault(f"{path} is JSON that is nested too deeply.") from error
    except ValueError as error:
        raise PlatformError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise PlatformError(f"{path} contains {type(value).__name__}, expected a JSON object.")
    return value


def _hyperparameters(path: Path) -> dict[str, str]:
    # The platform writes strings only; handwritten files may contain numbers and booleans.
    values = _read_object(path) or {}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    for name, text in texts.items():
        fault = _fault(name) or _fault(text)
        if fault:
            raise UserError(
                f"Hyperparameter {_shortened(name)} {fault}: correct its value, which is {_shortened(text)}."
            )
    return texts


def _fault(text: str) -> str | None:
    """The fault of a text that would make sagemaker-training or a program's environment fail."""
    if "\0" in text:
        return "contains the character NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair"
    depth = maximum = 0
    for bracket in _BRACKETS.findall(_QUOTED.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        maximum = max(depth, maximum)
    return "is JSON that is nested too deeply" if maximum > MAX_DEPTH else None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN_LENGTH else text[: MAX_SHOWN_LENGTH - 3] + "...")


def _channels(inputs: dict[str, object], path: Path) -> dict[str, ChannelConfig]:
    channels = {}
    for name, entry in sorted(inputs.items()):
        if not isinstance(entry, dict):
            raise PlatformError(f"{path}: channel {name!r} is {type(entry).__name__}, expected a JSON object.")
        text = {key: str(value) for key, value in entry.items() if value is not None}
        channels[name] = ChannelConfig(
            input_mode=text.get("TrainingInputMode", "File").lower(),
            content_type=text.get("ContentType"),
            record_wrapper=text.get("RecordWrapperType", "None").lower(),
            distribution=text.get("S3DistributionType", "FullyReplicated").lower(),
        )
    return channels


def _folders_as_channels(data: Path) -> dict[str, ChannelConfig]:
    try:
        names = sorted(entry.name for entry in data.iterdir() if stat.S_ISDIR(entry.stat().st_mode))
    except FileNotFoundError:
        return {}
    return {name: ChannelConfig() for name in names if not name.startswith(".")}


def _resources(path: Path) -> Resources:
    values = _read_object(path)
    if values is None:
        return Resources()
    hosts = values.get("hosts", ["algo-1"])
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise PlatformError(f"{path}: hosts is {hosts!r}, expected a list of host names.")
    faults = [f"host {_shortened(host)} {fault}" for host in hosts if (fault := _fault(host)) is not None]
    if faults:
        raise PlatformError(f"{path}: {faults[0]}.")
    current = str(values.get("current_host", hosts[0]))
    if current not in hosts:
        raise PlatformError(f"{path}: current_host {current!r} is not among hosts {hosts!r}.")
    interface, instance_type = values.get("network_interface_name"), values.get("current_instance_type")
    try:
        groups = parse_instance_groups(values.get("instance_groups"))
    except PlatformError as error:
        raise PlatformError(f"{path}: {error}") from error
    return Resources(
        current,
        tuple(hosts),
        str(interface) if interface else None,
        str(instance_type) if instance_type else None,
        groups,
    )
