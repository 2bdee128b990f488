"""Storage that persists across a job's machines: folders representing S3, and the logs."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.layout import JobFolder


@dataclass(frozen=True, slots=True)
class Storage:
    """Folders outside of the machines.

    Attributes:
        root: Folder of a single job, kept across its starts.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Folder representing `checkpoint_s3_uri`."""
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        """Folder of `model.tar.gz` and `output.tar.gz`."""
        return self.root / "output"

    def next_log(self) -> Path:
        """Return the log file of the next start (`logs/000.log` and so on) and create its folder."""
        folder = self.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{len(list(folder.glob('*.log'))):03d}.log"


def upload_artifacts(folder: JobFolder, storage: Storage) -> tuple[Path, Path]:
    """Pack `model/` and `output/data/` as the platform does at the end of a job, even if stopped or failed.

    Returns:
        `model.tar.gz` and `output.tar.gz`, each with the folder's entries at the top level.
    """
    storage.output.mkdir(parents=True, exist_ok=True)
    model = _pack(folder.model, storage.output / "model.tar.gz")
    return model, _pack(folder.output_data, storage.output / "output.tar.gz")


def _pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            tar.add(entry, arcname=entry.name)
    return archive
