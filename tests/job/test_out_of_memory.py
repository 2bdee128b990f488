"""A job that runs out of memory finishes with the result of a smaller batch with accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.data.loading.batches import Batch
from finetune.training import step
from sagemaker_simulator import Channel, TrainingRequest, lay_out
from tests.interruptions.jobs import write_texts
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import ENVIRONMENT, FinishedJob, run_request, succeeded

to_device = step.to_device


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Channel, ...]:
    folder = tmp_path_factory.mktemp("channels")
    write_folder(folder / "bert", "bert")
    return Channel("train", write_texts(folder / "texts", 24)), Channel("model", folder / "bert")


def lay_out_job(folder: Path, channels: tuple[Channel, ...], **settings: str) -> FinishedJob:
    hyperparameters = {"epochs": "1", "strategy": "full", "rules": "None", "checkpoint_interval_steps": "1", **settings}
    return FinishedJob(0, "", lay_out(folder, TrainingRequest("job", channels, hyperparameters, ENVIRONMENT)))


def limit_memory(monkeypatch: pytest.MonkeyPatch, records: int, passes: int) -> None:
    """Make training run out of memory if the batches after the first ones have more than a number of records."""
    seen = 0

    def limited(batch: Batch, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        nonlocal seen
        seen += 1
        if seen > passes and len(batch.targets) > records:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return to_device(batch, device)

    monkeypatch.setattr(step, "to_device", limited)


def test_result_is_that_of_the_smaller_batch_and_resumes(
    channels: tuple[Channel, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = lay_out_job(tmp_path / "smaller", channels, batch_size="4", gradient_accumulation_steps="4")
    expected = succeeded(run_request(smaller.folder))
    halved = lay_out_job(tmp_path / "halved", channels, batch_size="16")
    limit_memory(monkeypatch, records=4, passes=1)
    job = succeeded(run_request(halved.folder))
    assert "Starting again with batch_size=8 and gradient_accumulation_steps=2" in job.log
    assert "Starting again with batch_size=4 and gradient_accumulation_steps=4" in job.log
    assert job.weights() == expected.weights()
    assert job.metrics()["job"]["history"] == expected.metrics()["job"]["history"]

    (halved.folder.model / "model.safetensors").unlink()
    resumed = succeeded(run_request(halved.folder))
    assert "Resumed from checkpoint" in resumed.log
    assert "Starting again" not in resumed.log
    assert resumed.weights() == expected.weights()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": "16", "out_of_memory": "fail"}, "out_of_memory=fail"),
        ({"batch_size": "6"}, "batch_size=3 has no half"),
    ],
)
def test_job_fails_with_the_remedy(
    settings: dict[str, str],
    reason: str,
    channels: tuple[Channel, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_memory(monkeypatch, records=1, passes=0)
    job = run_request(lay_out_job(tmp_path / "job", channels, **settings).folder)
    assert job.exit_code == 1
    assert "ran out of memory with batch_size" in job.failure
    assert reason in job.failure
