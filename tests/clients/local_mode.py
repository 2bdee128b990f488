"""Jobs in the clients' local mode, and the removal of everything they leave on this machine's Docker engine."""

from __future__ import annotations

import fcntl
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "sagemaker-local"
WORKING_FOLDER = "com.docker.compose.project.working_dir"


@dataclass(frozen=True)
class LocalJob:
    """A finished job.

    Attributes:
        exit_code: of the example.
        model: its `model.tar.gz`.
        output: its `output.tar.gz`.
    """

    exit_code: int
    log: str
    model: Path
    output: Path

    def files(self, archive: Path) -> dict[str, bytes]:
        """Content of every file of an archive."""
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile()]
            return {member.name: stream.read() for member in members if (stream := tar.extractfile(member))}

    def unpacked(self, folder: Path) -> Path:
        """Unpack the artifact into `folder`."""
        for name, content in self.files(self.model).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def metrics(self) -> dict[str, Any]:
        """The artifact's metrics of the job."""
        loaded: dict[str, Any] = json.loads(self.files(self.model)["metrics.json"])
        return loaded


@dataclass(frozen=True)
class LocalMode:
    """Runs examples in local mode, one at a time, because all their containers share a network.

    Attributes:
        lock: file shared by all test processes.
        variables: environment variables of the examples.
    """

    image: str
    root: Path
    lock: Path
    variables: Mapping[str, str]

    def run(self, example: str, channels: Mapping[str, str], *more: str, values: Sequence[str] = ()) -> LocalJob:
        """Run an example to its end in its own folder."""
        folder = self.new_folder(example.split("/")[0])
        command = [str(ROOT / "scripts" / "example"), example, "--image", self.image, "--local"]
        command += ["--output", f"file://{folder}", *more]
        command += [word for name, uri in channels.items() for word in ("--channel", f"{name}={uri}")]
        command += [word for value in values for word in ("--hyperparameter", value)]
        return self._run(command, folder, {})

    def run_program(self, program: Path, environment: Path, folder: Path, *arguments: str) -> LocalJob:
        """Run a Python program that imports the examples, with the image as its first argument."""
        command = [str(environment / "bin" / "python"), "-P", str(program), self.image, *arguments]
        return self._run(command, folder, {"PYTHONPATH": str(ROOT / "scripts")})

    def new_folder(self, prefix: str) -> Path:
        """Make a folder for a job."""
        folder = self.root / f"{prefix}-{len(list(self.root.iterdir()))}"
        (folder / "temporary").mkdir(parents=True)
        return folder

    def _run(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> LocalJob:
        variables = {**self.variables, **variables, "TMPDIR": str(folder / "temporary")}
        with self.lock.open("w") as lock, swept(folder):
            fcntl.flock(lock, fcntl.LOCK_EX)
            completed = subprocess.run(
                command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
        archives = {path.name: path for path in folder.rglob("*.tar.gz")}
        missing = folder / "missing.tar.gz"
        return LocalJob(
            completed.returncode,
            completed.stdout,
            archives.get("model.tar.gz", missing),
            archives.get("output.tar.gz", missing),
        )


@contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Remove the containers and the network that the clients leave of jobs composed below a folder."""
    try:
        yield
    finally:
        template = f'{{{{.ID}}}} {{{{.Label "{WORKING_FOLDER}"}}}}'
        listing = subprocess.run(
            ["docker", "ps", "-a", "--format", template], capture_output=True, text=True, check=True
        )
        lines = [line.partition(" ") for line in listing.stdout.splitlines()]
        own_containers = [container for container, _, root in lines if root.startswith(str(folder))]
        if own_containers:
            subprocess.run(["docker", "rm", "--force", "--volumes", *own_containers], capture_output=True, check=True)
        subprocess.run(["docker", "network", "rm", NETWORK], capture_output=True, check=False)
