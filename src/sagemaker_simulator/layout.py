"""Where things lie under `/opt/ml`, and how a fresh one is laid out in a folder."""

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


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder that stands for `/opt/ml` of one machine.

    Attributes:
        root: what the job knows as `/opt/ml`.
        checkpoint_path: the job's checkpoint folder as the platform names it.
    """

    root: Path
    checkpoint_path: PurePosixPath = DEFAULT_CHECKPOINT_PATH

    @property
    def config(self) -> Path:
        """The JSON files."""
        return self.root / "input" / "config"

    @property
    def data(self) -> Path:
        """A folder for each channel."""
        return self.root / "input" / "data"

    @property
    def model(self) -> Path:
        """What becomes `model.tar.gz`."""
        return self.root / "model"

    @property
    def output(self) -> Path:
        """The failure file and `data/`."""
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        """What becomes `output.tar.gz`."""
        return self.output / "data"

    @property
    def failure(self) -> Path:
        """The file in which a container says why it failed."""
        return self.output / "failure"

    @property
    def success(self) -> Path:
        """The file that sagemaker-training writes at a good end; the platform itself does not ask for it."""
        return self.output / "success"

    @property
    def checkpoints(self) -> Path:
        """The folder that is kept in step with S3."""
        return self.root / self.checkpoint_path.relative_to(PLATFORM_ROOT)


def lay_out(root: Path, request: TrainingRequest, seen_as: Path | None = None) -> JobFolder:
    """Make a fresh `/opt/ml` with folders, configuration files and channels.

    Args:
        root: does not exist yet, or is an empty folder: the remains of another job would become part of this one.
        request: what the job is asked for.
        seen_as: where the job sees it, such as `/opt/ml` in a container; `None` for a job that sees `root` itself.

    Raises:
        RequestError: the folder is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise RequestError(f"{root} is not empty: a job starts on a fresh machine")
    folder = JobFolder(root.absolute(), request.checkpoint_path or DEFAULT_CHECKPOINT_PATH)
    for path in (folder.config, folder.data, folder.model, folder.output_data):
        path.mkdir(parents=True)
    has_checkpoints = request.checkpoint_path is not None
    if has_checkpoints:
        folder.checkpoints.mkdir(parents=True)
    seen = JobFolder(seen_as or folder.root, folder.checkpoint_path)
    write_configuration(request, folder.config, seen.checkpoints if has_checkpoints else None)
    for channel in request.channels:
        if channel.pipe is None:
            _place(channel, folder.data / channel.name)
    return folder


def feed_pipes(folder: JobFolder, request: TrainingRequest) -> list[PipeFeeder]:
    """Start a feeder for every channel in Pipe mode; the caller ends them."""
    return [
        PipeFeeder(channel.name, folder.data, channel.source, channel.pipe, channel.manners)
        for channel in request.channels
        if channel.pipe is not None
    ]


def _place(channel: Channel, target: Path) -> None:
    source = channel.source.absolute()
    if source.is_dir() and channel.placement == "link":
        target.symlink_to(source, target_is_directory=True)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir()
        if channel.placement == "copy" or not _linked(source, target / source.name):
            shutil.copy2(source, target / source.name)


def _linked(source: Path, target: Path) -> bool:
    """Whether a hard link could be made. A symbolic one would lead out of the channel, where a job need not look."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        return False
    return True
