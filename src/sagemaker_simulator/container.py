"""Runs a job in a container of the real image, with the `docker run` options that match the platform."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.configuration import PLATFORM_ROOT, TrainingRequest
from sagemaker_simulator.environment import BASE_FOLDER_VARIABLE, job_environment
from sagemaker_simulator.layout import JobFolder
from sagemaker_simulator.process import Program

CONTAINER_ROOT = Path(PLATFORM_ROOT)
_CLIENT_VARIABLES = ("PATH", "HOME")
_HOST_VARIABLES = ("PATH", "PYTHONPATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", BASE_FOLDER_VARIABLE)


@dataclass(frozen=True, slots=True)
class Container:
    """Container settings for jobs.

    Attributes:
        image: Name of the image.
        network: Docker network; `none` verifies that a job needs nothing but its channels.
        shared_memory: Size of `/dev/shm`; Docker's default is 64 MB.
        options: Additional options of `docker run`.
    """

    image: str
    network: str = "none"
    shared_memory: str = "1g"
    options: tuple[str, ...] = ()

    def program(self, request: TrainingRequest, folder: JobFolder, command: tuple[str, ...]) -> Program:
        """Return the Docker client as the job's process; it forwards SIGTERM to the container.

        Channel data is mounted at the targets of the links in `folder`, so nothing is copied. Files written by the job
        belong to the user who started it.

        Args:
            request: The training request.
            folder: Folder used as `/opt/ml`.
            command: `train`, unless the request has another command.
        """
        name = f"{request.name}-{secrets.token_hex(4)}"
        environment = job_environment(request, folder)
        variables = {key: value for key, value in environment.items() if key not in _HOST_VARIABLES}
        arguments = ["docker", "run", "--rm", "--name", name, "--network", self.network]
        arguments += [
            "--shm-size",
            self.shared_memory,
            "--hostname",
            request.resources.current_host,
            "--user",
            f"{os.getuid()}:{os.getgid()}",
        ]
        arguments += ["--volume", f"{folder.root}:{CONTAINER_ROOT}"]
        for channel in request.channels:
            if channel.placement == "link":
                arguments += ["--volume", f"{channel.source.absolute()}:{channel.source.absolute()}:ro"]
        for key, value in (variables | dict(request.environment)).items():
            arguments += ["--env", f"{key}={value}"]
        client = {
            key: value for key, value in os.environ.items() if key in _CLIENT_VARIABLES or key.startswith("DOCKER_")
        }
        end = ("docker", "rm", "--force", name)
        return Program((*arguments, *self.options, self.image, *command), client, folder.root, end)


def gpu_options(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return `--gpus all` if Docker can use a GPU of this machine, otherwise nothing."""
    docker = shutil.which("docker")
    if docker is None or "CUDA_VISIBLE_DEVICES" in environment or not Path("/dev/nvidiactl").exists():
        return ()
    command = (docker, "info", "--format", "{{json .Runtimes}}")
    runtimes = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - path just found by name
    return ("--gpus", "all") if "nvidia" in runtimes.stdout else ()
