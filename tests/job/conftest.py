"""Fixtures: images, and a model trained on them once, from which the other jobs of these tests start."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder
from tests.support.coloured_images import write_images
from tests.support.whole_jobs import FinishedJob, train

Share = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Share:
    """Create a folder once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = base / name
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "done").exists():
                folder.mkdir()
                make(folder)
                (folder / "done").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def images(share: Share) -> Path:
    """24 images of each of three colors."""
    return share("pictures", lambda folder: _write(folder / "train", 24, 0)) / "train"


@pytest.fixture(scope="session")
def holdout(share: Share) -> Path:
    """8 further images of each color."""
    return share("unseen", lambda folder: _write(folder / "validation", 8, 100)) / "validation"


@pytest.fixture(scope="session")
def first_job(share: Share, images: Path, holdout: Path) -> FinishedJob:
    """The image's `train` on images, from random weights; `archive` contains the model."""

    def make(folder: Path) -> None:
        job = train(
            folder,
            {"train": images, "validation": holdout},
            {
                "strategy": "from_scratch",
                "model_name": "resnet18",
                "image_size": "32",
                "epochs": "3",
                "batch_size": "8",
                "top_k": "2",
                "_tuning_objective_metric": "validation:accuracy",
                "sagemaker_region": "us-east-1",
            },
        )
        (folder / "job.json").write_text(json.dumps([job.exit_code, job.log, str(job.archive)]))

    workdir = share("first-job", make)
    exit_code, log, archive = json.loads((workdir / "job.json").read_text())
    return FinishedJob(exit_code, log, JobFolder(workdir / "opt-ml"), Path(archive))


@pytest.fixture(scope="session")
def artifact(first_job: FinishedJob) -> Path:
    """The first job's artifact, unpacked: a `model` channel."""
    assert first_job.exit_code == 0, first_job.log
    return first_job.folder.model


def _write(folder: Path, per_class: int, first: int) -> None:
    write_images(folder, per_class, first)
