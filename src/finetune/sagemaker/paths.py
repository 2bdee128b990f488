"""Paths of the training contract under `/opt/ml` or another root; creates nothing.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html and its sibling pages.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import PlatformError

DEFAULT_ROOT = Path("/opt/ml")
DEFAULT_BAKED_WEIGHTS = Path("/opt/pretrained")
BASE_FOLDER = "SAGEMAKER_BASE_DIR"
"""Variable with the folder to use instead of `/opt/ml`, as in sagemaker-training."""
WARM_POOL = "SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY"
"""Set by the platform in jobs with a `KeepAlivePeriodInSeconds`."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders and files of the training contract below one root.

    Attributes:
        root: `/opt/ml` in a container, any folder elsewhere.
        baked_weights: folder of pretrained models included in the image; need not exist.
        warm_pool: folder that the platform keeps for later jobs on the same machine; `None` if it keeps none.
    """

    root: Path = DEFAULT_ROOT
    baked_weights: Path = DEFAULT_BAKED_WEIGHTS
    warm_pool: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """Paths from `SAGEMAKER_BASE_DIR`, as in sagemaker-training (default `/opt/ml`), and `FINETUNE_PRETRAINED`."""
        warm_pool = environment.get(WARM_POOL)
        return cls(
            Path(environment.get(BASE_FOLDER) or DEFAULT_ROOT),
            Path(environment.get("FINETUNE_PRETRAINED") or DEFAULT_BAKED_WEIGHTS),
            Path(warm_pool) if warm_pool else None,
        )

    @property
    def config(self) -> Path:
        """Folder of the JSON files that describe the job."""
        return self.root / "input" / "config"

    @property
    def data(self) -> Path:
        """Folder with one folder per channel in File and FastFile mode, or FIFOs in Pipe mode."""
        return self.root / "input" / "data"

    @property
    def model(self) -> Path:
        """Folder packed into `model.tar.gz` when the job ends, including when it is stopped."""
        return self.root / "model"

    @property
    def output(self) -> Path:
        """Parent of the failure file and of `data/`."""
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        """Folder packed into `output.tar.gz` when the job ends."""
        return self.output / "data"

    @property
    def tensorboard(self) -> Path:
        """Folder for TensorBoard events, unless `tensorboardoutputconfig.json` names another one."""
        return self.output / "tensorboard"

    @property
    def failure(self) -> Path:
        """Failure file; its first 1,024 characters become the job's `FailureReason`."""
        return self.output / "failure"

    @property
    def failure_reserve(self) -> Path:
        """File that reserves space for the failure file while the job runs; removed at its end."""
        return self.output / ".failure.reserve"

    @property
    def checkpoints(self) -> Path:
        """Folder synchronized with S3 by the platform, unless `checkpointconfig.json` names another one."""
        return self.root / "checkpoints"

    @property
    def pipe_state(self) -> Path:
        """Record of the pipes already read, for later processes of this container; lost with the container."""
        return self.root / "pipe_state"

    def channel(self, name: str) -> Path:
        """Folder of a channel in File and FastFile mode."""
        return self.data / name


def check_writable(*folders: Path) -> None:
    """Write into each folder, or into its nearest existing parent, and leave no file there.

    Raises:
        PlatformError: a folder cannot be written.
    """
    for folder in folders:
        try:
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise PlatformError(
                f"{folder} cannot be written by user {os.getuid()}: {error.strerror or error}. Mount it writable for"
                " this user."
            ) from error


def check_temporary_folder() -> None:
    """Check that there is a folder for temporary files.

    Raises:
        PlatformError: there is none.
    """
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise PlatformError(
            "No folder for temporary files can be written: mount /tmp, or let TMPDIR name another folder."
        ) from error
