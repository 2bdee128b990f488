"""Fixtures of the client tests: environments with the SDKs, and their variables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.local_mode import LocalMode
from tests.clients.recording_aws import REGION

# The image is built once for all tests that need it.
from tests.image.conftest import image as image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment_of() -> Callable[[str], Path]:
    """Returns the folder of an environment of `scripts/environments`, and creates it if missing."""

    def folder(name: str) -> Path:
        completed = subprocess.run(
            [ROOT / "scripts" / "environment", name], stdout=subprocess.PIPE, text=True, check=True
        )
        return Path(completed.stdout.strip())

    return folder


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for the SDKs: none of this machine's own settings, and no telemetry."""
    folder = tmp_path_factory.mktemp("sdk")
    settings = folder / "config.yaml"
    settings.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n", encoding="utf-8"
    )
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_", "SM_"))
    }
    return variables | {
        "HOME": str(folder),
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(settings),
        "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
    }


@pytest.fixture(scope="session")
def compose(image: str) -> str:
    """The folder of docker-compose, once the engine has answered."""
    return program("docker-compose")


@pytest.fixture(scope="module")
def local_mode(
    image: str,
    compose: str,
    environment_of: Callable[[str], Path],
    quiet: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
) -> LocalMode:
    """Runs examples and other programs with the SDKs on this machine's engine."""
    for sdk in ("sdk-v2", "sdk-v3"):
        environment_of(sdk)
    base = tmp_path_factory.getbasetemp()
    lock = (base if worker_id == "master" else base.parent) / "local-mode.lock"
    variables = {**quiet, "PATH": f"{compose}{os.pathsep}{quiet['PATH']}", "AWS_DEFAULT_REGION": REGION}
    variables["AWS_EC2_METADATA_DISABLED"] = "true"
    return LocalMode(image, tmp_path_factory.mktemp("local-mode"), lock, variables)


def program(name: str) -> str:
    """The folder of a program that is not part of Docker's packages."""
    command = (str(ROOT / "scripts" / "docker" / "program"), name)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
