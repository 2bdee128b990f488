"""What outlives a job's machine: the folders that stand for S3, and the logs."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.layout import JobFolder


@dataclass(frozen=True, slots=True)
class Storage:
    """Folders outside of every machine.

    Attributes:
        root: a job's own, kept from start to start.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """What `checkpoint_s3_uri` names."""
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        """Where `model.tar.gz` and `output.tar.gz` arrive."""
        return self.root / "output"

    def next_log(self) -> Path:
        """A file for the log of the next start, `logs/000.log` and so on; its folder is created."""
        folder = self.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{len(list(folder.glob('*.log'))):03d}.log"


def upload_artifacts(folder: JobFolder, storage: Storage) -> tuple[Path, Path]:
    """Pack `model/` and `output/data/` as the platform does at the end of a job, also of a stopped or failed one.

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
