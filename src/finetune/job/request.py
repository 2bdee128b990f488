"""What the job is asked for: read and checked within a second, before anything heavy is imported."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from finetune.config.channels import Channels, CheckedChannel, check_channels
from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError
from finetune.job.objective import check_objective
from finetune.sagemaker.config_files import JobFiles, read_job_files
from finetune.sagemaker.paths import Paths, check_temporary_folder, check_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request, and where its files lie."""

    paths: Paths
    files: JobFiles
    spec: JobSpec
    channels: Channels

    @property
    def is_first_host(self) -> bool:
        """Whether this host is the one that writes checkpoints and the model."""
        return self.files.resources.current_host == self.files.resources.hosts[0]

    def folders(self) -> dict[str, Path]:
        """Folder of every channel in File mode, by its purpose."""
        return {
            purpose: self.paths.channel(channel.name)
            for purpose, channel in self.channels.by_purpose.items()
            if not channel.piped
        }

    def pipes(self) -> dict[str, CheckedChannel]:
        """Every channel in Pipe mode, by its purpose; the training channel comes first."""
        purposes = ("train", "validation", "test")
        channels = {name: self.channels.by_purpose[name] for name in purposes if name in self.channels.by_purpose}
        return {purpose: channel for purpose, channel in channels.items() if channel.piped}

    def checkpoint_folder(self) -> Path | None:
        """Where checkpoints belong: the folder that the platform synchronises, or one that the user asks to be kept.

        Without either, nobody would keep what is written there, and nothing is.
        """
        folder = self.files.checkpoints or self.paths.checkpoints
        asked = self.spec.checkpoint.s3_uri is not None or self.spec.checkpoint.interval_steps is not None
        wanted = folder.is_dir() or self.files.checkpoints is not None or asked
        return folder if wanted else None

    def shares(self, channel: str) -> bool:
        """Whether each host gets objects of its own of a channel, perhaps none."""
        files = self.files
        return files.channels[channel].distribution == "shardedbys3key" and len(files.resources.hosts) > 1


def read_request(paths: Paths) -> Request:
    """Read the files of the platform, check hyperparameters and channels, and log what is translated or ignored.

    Raises:
        UserError: something is asked for that cannot be; all faults of hyperparameters, or of channels, at once.
        PlatformError: a file of the platform cannot be read, or a folder that the job fills cannot be written.
    """
    files = read_job_files(paths)
    spec = parse_hyperparameters(files.hyperparameters)
    channels = check_channels(files.channels, spec)
    for note in (*spec.notes, *channels.notes):
        logger.info("%s", note)
    check_objective(spec, channels.by_purpose)
    request = Request(paths, files, spec, channels)
    _refuse_parts_of_channels(request)
    if request.is_first_host:
        _check_folders(request)
    return request


def _check_folders(request: Request) -> None:
    """Write into the folders that are written at the end or at the first checkpoint.

    Raises:
        PlatformError: one cannot be written.
    """
    checkpoints = request.checkpoint_folder() if request.spec.strategy.name != "evaluate" else None
    folders = (request.paths.model, request.paths.output_data, *([] if checkpoints is None else [checkpoints]))
    check_temporary_folder()
    check_writable(*folders)


def _refuse_parts_of_channels(request: Request) -> None:
    # The first host alone trains, and would see its own part only.
    sharded = [name for name in request.files.channels if request.shares(name)]
    if sharded:
        raise UserError(
            f"Channel {sharded[0]!r} is distributed over {len(request.files.resources.hosts)} hosts (ShardedByS3Key),"
            " of which the first alone trains: let it be FullyReplicated, or ask for one instance."
        )
