"""Storage that persists across a job's machines: folders representing S3, and the logs."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
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
        return self.next_logs(("",))[0]

    def next_logs(self, hosts: Sequence[str]) -> list[Path]:
        """Return the log files of the next start, for several hosts as `logs/000-algo-1.log`, and create their folder.

        Args:
            hosts: Names of the hosts.
        """
        folder = self.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name[:3]) + 1 for path in folder.glob("[0-9][0-9][0-9]*.log")), default=0)
        return [folder / (f"{number:03d}-{name}.log" if len(hosts) > 1 else f"{number:03d}.log") for name in hosts]


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Uploaded archives.

    Attributes:
        model: `model.tar.gz`.
        output: `output.tar.gz`.
        clashes: Files that more than one host wrote, such as `model/weights`.
    """

    model: Path
    output: Path
    clashes: tuple[str, ...]


def upload_artifacts(folders: Sequence[JobFolder], storage: Storage) -> Artifacts:
    """Pack `model/` and `output/data/` as the platform does at the end of a job, even if stopped or failed.

    The platform "aggregates the result" of all hosts in one archive and asks containers to avoid equal names. Its
    choice among files of the same name is undocumented; here, the first host's file is kept.

    Args:
        folders: The `/opt/ml` of each host.
        storage: Destination.

    Returns:
        The archives, each with the folders' entries at the top level.
    """
    storage.output.mkdir(parents=True, exist_ok=True)
    model, output = storage.output / "model.tar.gz", storage.output / "output.tar.gz"
    clashes = [f"model/{name}" for name in _pack([folder.model for folder in folders], model)]
    clashes += [f"output/data/{name}" for name in _pack([folder.output_data for folder in folders], output)]
    return Artifacts(model, output, tuple(clashes))


def _pack(folders: Sequence[Path], archive: Path) -> list[str]:
    """Pack the entries of the folders, and return the names of files that are in more than one of them."""
    packed: dict[str, bool] = {}
    clashes = []
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder).as_posix()
                is_folder = path.is_dir() and not path.is_symlink()
                if name not in packed:
                    tar.add(path, arcname=name, recursive=False)
                    packed[name] = is_folder
                elif not (is_folder and packed[name]):
                    clashes.append(name)
    return clashes
