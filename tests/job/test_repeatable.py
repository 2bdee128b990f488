"""The same request gives the same bits for any number of threads, and whether activations are stored or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.whole_jobs import FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

OPTIONS = {"strategy": "full", "epochs": "2", "batch_size": "6", "augmentation": "strong", "dropout": "0.2"}


@pytest.fixture(scope="module")
def without_workers(tmp_path_factory: pytest.TempPathFactory, holdout: Path, artifact: Path) -> FinishedJob:
    workdir = tmp_path_factory.mktemp("without-workers")
    return succeeded(run_training(workdir, {"train": holdout, "model": artifact}, {**OPTIONS, "workers": "0"}))


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_workers_do_not_change_results(
    workers: str, tmp_path: Path, holdout: Path, artifact: Path, without_workers: FinishedJob
) -> None:
    job = succeeded(run_training(tmp_path, {"train": holdout, "model": artifact}, {**OPTIONS, "workers": workers}))
    assert job.weights() == without_workers.weights()
    assert job.metrics()["job"]["history"] == without_workers.metrics()["job"]["history"]
    assert job.predictions() == without_workers.predictions()


def test_seed_changes_weights_and_split(
    tmp_path: Path, holdout: Path, artifact: Path, without_workers: FinishedJob
) -> None:
    job = succeeded(run_training(tmp_path, {"train": holdout, "model": artifact}, {**OPTIONS, "seed": "1"}))
    assert job.weights() != without_workers.weights()
    assert {row["record"] for row in job.predictions()} != {row["record"] for row in without_workers.predictions()}


def test_activation_checkpointing_does_not_change_results(
    tmp_path: Path, holdout: Path, artifact: Path, without_workers: FinishedJob
) -> None:
    options = {**OPTIONS, "activation_checkpointing": "true"}
    job = succeeded(run_training(tmp_path, {"train": holdout, "model": artifact}, options))
    assert job.weights() == without_workers.weights()
    assert job.metrics()["job"]["history"] == without_workers.metrics()["job"]["history"]
