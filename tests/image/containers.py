"""Containers as the platform runs them: `docker run IMAGE train` on a prepared `/opt/ml`, without a network."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sagemaker_simulator import JobFolder, TrainingRequest, lay_out

ML = "/opt/ml"
TIMEOUT_SECONDS = 240.0
UNPRIVILEGED_USER_ID = 12345
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")


def docker(*arguments: str) -> str:
    """Standard output of a docker command, which must succeed."""
    completed = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@dataclass(frozen=True)
class RunOptions:
    """How a container is run.

    Attributes:
        user: number of the user and group.
        options: additional options of `docker run`.
        environment: variables of the request.
        command: `train`, as on the platform; empty if a client leaves it to the image.
    """

    user: int = 0
    options: Sequence[str] = ()
    environment: Sequence[str] = ("OMP_NUM_THREADS=2",)
    command: Sequence[str] = ("train",)


UNPRIVILEGED = RunOptions(UNPRIVILEGED_USER_ID, READ_ONLY)


@dataclass
class Container:
    """A started container and its `/opt/ml`."""

    name: str
    folder: JobFolder
    seconds_to_stop: float = 0.0

    def log(self) -> str:
        """Its output so far."""
        completed = subprocess.run(
            ["docker", "logs", self.name], stdout=-1, stderr=subprocess.STDOUT, text=True, check=True
        )
        return completed.stdout

    def wait_for(self, pattern: str) -> None:
        """Wait until its log matches."""
        self.wait_until(lambda: re.search(pattern, self.log()) is not None, pattern)

    def wait_until(self, condition: Callable[[], bool], description: str) -> None:
        """Wait until a condition holds, polling often, and once more after the container has ended."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self.is_running():
            next_check = time.monotonic() + 1.0
            while time.monotonic() < next_check:
                if condition():
                    return
                time.sleep(0.005)
            assert time.monotonic() < deadline, f"{description!r} never came:\n{self.log()}"
        assert condition(), f"it ended before {description!r}:\n{self.log()}"

    def has_checkpoint(self, pattern: str) -> bool:
        """Whether its checkpoints folder has a matching file."""
        folder = glob.escape(str(self.folder.checkpoints))
        return bool(glob.glob(f"{folder}/{pattern}"))  # noqa: PTH207 - Path.glob raises if a folder disappears

    def has_loaded(self, library: str) -> bool:
        """Whether one of its processes has mapped a shared library."""
        search = ["sh", "-c", 'cat /proc/[0-9]*/maps 2>/dev/null | grep -q "$0"', library]
        return subprocess.run(["docker", "exec", self.name, *search], capture_output=True, check=False).returncode == 0

    def is_running(self) -> bool:
        """Whether its first process is running."""
        return docker("inspect", "--format", "{{.State.Running}}", self.name).strip() == "true"

    def stop(self, grace: int = 120) -> None:
        """Stop it as the platform does: SIGTERM, and SIGKILL after the grace period."""
        began = time.monotonic()
        docker("stop", "--time", str(grace), self.name)
        self.seconds_to_stop = time.monotonic() - began

    def wait(self) -> int:
        """Wait until it ends; return its exit code."""
        command = ["docker", "wait", self.name]
        return int(subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=True).stdout)

    @property
    def failure(self) -> str:
        """Its failure file; empty if there is none."""
        return self.folder.failure.read_text("utf-8") if self.folder.failure.exists() else ""

    def weights(self) -> bytes:
        """All bits of the model's weights."""
        return (self.folder.model / "model.safetensors").read_bytes()

    def metrics(self) -> dict[str, Any]:
        """The job's metrics."""
        loaded: dict[str, Any] = json.loads((self.folder.output_data / "metrics.json").read_text("utf-8"))
        return loaded


@dataclass
class ContainerRunner:
    """Starts containers of one image, and removes them all at the end."""

    image: str
    started: list[str] = field(default_factory=list)

    def start(self, root: Path, request: TrainingRequest, run_options: RunOptions = UNPRIVILEGED) -> Container:
        """Start a job on a new `/opt/ml`; the data of its channels is mounted at its link targets."""
        folder = lay_out(root, request, Path(ML))
        return self.start_in(folder, run_options, tuple(str(channel.source) for channel in request.channels))

    def start_in(
        self, folder: JobFolder, run_options: RunOptions = UNPRIVILEGED, data: Sequence[str] = ()
    ) -> Container:
        """Start a job on a prepared `/opt/ml`."""
        change_owner(folder.root, run_options.user)
        name = f"finetune-test-{secrets.token_hex(6)}"
        options = [
            "--user",
            f"{run_options.user}:{run_options.user}",
            "--network",
            "none",
            "--volume",
            f"{folder.root}:{ML}",
        ]
        options += [word for path in data for word in ("--volume", f"{path}:{path}:ro")]
        options += [word for variable in run_options.environment for word in ("--env", variable)]
        self.started.append(name)
        docker("run", "--detach", "--name", name, *options, *run_options.options, self.image, *run_options.command)
        return Container(name, folder)

    def run(
        self, root: Path, request: TrainingRequest, run_options: RunOptions = UNPRIVILEGED
    ) -> tuple[int, Container]:
        """Run a job to its end."""
        container = self.start(root, request, run_options)
        return container.wait(), container

    def clear(self) -> None:
        """Remove every container, running or not."""
        if self.started:
            subprocess.run(["docker", "rm", "--force", "--volumes", *self.started], capture_output=True, check=False)
            self.started.clear()


def change_owner(folder: Path, user: int) -> None:
    """Change the owner of a folder and its contents to `user`."""
    for parent, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(Path(parent) / name, user, user, follow_symlinks=False)
