"""The image under test, built once from the unchanged Dockerfile; its tests are skipped without a Docker engine."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.containers import ContainerRunner
from tests.support.coloured_images import write_images

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "finetune:test"
REQUIRED = "FINETUNE_REQUIRE_ENGINE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as requiring an engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.image)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """The name of the image.

    `FINETUNE_TEST_IMAGE` names one that is already built, or, with the log of its build in `FINETUNE_TEST_IMAGE_LOG`,
    one that may still be built.
    """
    engine = subprocess.run(["docker", "info"], capture_output=True, check=False) if _has_docker() else None
    if engine is None or engine.returncode:
        reason = "the image is not tested, for no Docker engine answers: scripts/docker/engine start"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    built = os.environ.get("FINETUNE_TEST_IMAGE")
    if built:
        _wait_for_build(built)
        return built
    base = tmp_path_factory.getbasetemp()
    with ((base if worker_id == "master" else base.parent) / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build = subprocess.run([ROOT / "scripts" / "build-image", IMAGE], capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout[-5000:] + build.stderr[-5000:]
    return IMAGE


def _wait_for_build(name: str) -> None:
    """Wait for the end of a build, which must have been a success. Until then its log is locked."""
    path = os.environ.get("FINETUNE_TEST_IMAGE_LOG")
    if path is None:
        return
    with Path(path).open(encoding="utf-8", errors="replace") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        text = log.read()
    # The last line is that of scripts/build-image.
    assert text.splitlines()[-1:] and text.splitlines()[-1].startswith(f"{name}  sha256:"), text[-5000:]


def _has_docker() -> bool:
    return any((Path(folder) / "docker").exists() for folder in os.environ.get("PATH", "").split(os.pathsep))


@pytest.fixture
def runner(image: str) -> Iterator[ContainerRunner]:
    """Starts containers, and removes them all."""
    runner = ContainerRunner(image)
    yield runner
    runner.clear()


@pytest.fixture(scope="session")
def train_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of each of three colors."""
    return write_images(tmp_path_factory.mktemp("images") / "train", 24)


@pytest.fixture(scope="session")
def validation_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 further images of each color."""
    return write_images(tmp_path_factory.mktemp("unseen") / "validation", 8, 100)
