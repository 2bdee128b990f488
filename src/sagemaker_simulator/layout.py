"""Layout of `/opt/ml`, and its creation in a local folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sagemaker_simulator.configuration import (
    DEFAULT_CHECKPOINT_PATH,
    PLATFORM_ROOT,
    Channel,
    RequestError,
    TrainingRequest,
    write_configuration,
)
from sagemaker_simulator.feeder import PipeFeeder
from sagemaker_simulator.object_stream import shard_objects


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Folder used as the `/opt/ml` of one machine.

    Attributes:
        root: Folder that the job knows as `/opt/ml`.
        checkpoint_path: Path of the job's checkpoint folder on the platform.
    """

    root: Path
    checkpoint_path: PurePosixPath = DEFAULT_CHECKPOINT_PATH

    @property
    def config(self) -> Path:
        """Folder of the JSON files."""
        return self.root / "input" / "config"

    @property
    def data(self) -> Path:
        """Folder with a subfolder for each channel."""
        return self.root / "input" / "data"

    @property
    def model(self) -> Path:
        """Folder packed as `model.tar.gz`."""
        return self.root / "model"

    @property
    def output(self) -> Path:
        """Folder of the failure file and `data/`."""
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        """Folder packed as `output.tar.gz`."""
        return self.output / "data"

    @property
    def failure(self) -> Path:
        """File in which a container reports the reason of its failure."""
        return self.output / "failure"

    @property
    def success(self) -> Path:
        """File that sagemaker-training writes on success; not required by the platform."""
        return self.output / "success"

    @property
    def checkpoints(self) -> Path:
        """Folder synchronized with S3."""
        return self.root / self.checkpoint_path.relative_to(PLATFORM_ROOT)


def lay_out(root: Path, request: TrainingRequest, visible_root: Path | None = None) -> JobFolder:
    """Create a new `/opt/ml` with folders, configuration files and channels.

    Args:
        root: Nonexistent or empty folder: remains of another job would become part of this one.
        request: The training request.
        visible_root: Path visible to the job, such as `/opt/ml` in a container; `None` if the job sees `root` itself.

    Raises:
        RequestError: The folder is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise RequestError(f"{root} is not empty; use a new or empty folder")
    folder = JobFolder(root.absolute(), request.checkpoint_path or DEFAULT_CHECKPOINT_PATH)
    for path in (folder.config, folder.data, folder.model, folder.output_data):
        path.mkdir(parents=True)
    has_checkpoints = request.checkpoint_path is not None
    if has_checkpoints:
        folder.checkpoints.mkdir(parents=True)
    visible_folder = JobFolder(visible_root or folder.root, folder.checkpoint_path)
    write_configuration(request, folder.config, visible_folder.checkpoints if has_checkpoints else None)
    for channel in request.channels:
        if channel.pipe is None:
            _create_channel(channel, folder.data / channel.name)
    return folder


def feed_pipes(folder: JobFolder, request: TrainingRequest) -> list[PipeFeeder]:
    """Start a feeder for every channel in Pipe mode; the caller has to end them."""
    return [
        PipeFeeder(channel.name, folder.data, channel.source, channel.pipe, channel.feeder_options)
        for channel in request.channels
        if channel.pipe is not None
    ]


def _create_channel(channel: Channel, target: Path) -> None:
    source = channel.source.absolute()
    if channel.shard[1] > 1:
        target.mkdir()
        for path in shard_objects(source, channel.shard):
            name = path.name if path == source else path.relative_to(source)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _create_file(path, target / name, channel)
    elif source.is_dir() and channel.placement == "link":
        target.symlink_to(source, target_is_directory=True)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir()
        _create_file(source, target / source.name, channel)


def _create_file(source: Path, target: Path, channel: Channel) -> None:
    if channel.placement == "copy" or not _hard_link(source, target):
        shutil.copy2(source, target)


def _hard_link(source: Path, target: Path) -> bool:
    """Try to create a hard link. A symbolic link would point outside of the channel, which a job may ignore."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        return False
    return True
