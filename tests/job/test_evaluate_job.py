"""Models are evaluated unchanged, with their own classes, and never with an untrained head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from tests.support.coloured_images import COLORS, write_images
from tests.support.whole_jobs import run_training, succeeded

EVALUATE = {"strategy": "evaluate"}


def test_evaluation_writes_all_outputs_without_training(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    job = succeeded(run_training(tmp_path, {"test": holdout, "model": artifact}, EVALUATE))
    assert job.weights() == (artifact / "model.safetensors").read_bytes()
    metrics = job.metrics()
    assert metrics["test"]["records"] == 24
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["job"]["trainable_parameters"] == 0
    assert len(job.predictions("test")) == 24
    assert job.artifact()["labels"] == list(COLORS)
    assert "steps     none" in job.log
    assert "epoch=" not in job.log


def test_classes_are_those_of_the_model(tmp_path: Path, artifact: Path) -> None:
    some = write_images(tmp_path / "some", 3, first=300, names=("blue", "red"))
    job = succeeded(run_training(tmp_path / "job", {"train": some, "model": artifact}, EVALUATE))
    assert job.artifact()["labels"] == list(COLORS)
    assert job.metrics()["train"]["records"] == 6
    assert job.metrics()["train"]["accuracy"] > 0.9


def test_evaluation_accepts_a_single_class(tmp_path: Path, artifact: Path) -> None:
    single_class = write_images(tmp_path / "one", 3, first=300, names=("red",))
    job = succeeded(run_training(tmp_path / "job", {"test": single_class, "model": artifact}, EVALUATE))
    assert job.metrics()["test"]["records"] == 3


def test_unknown_class_is_refused(tmp_path: Path, artifact: Path) -> None:
    strange = write_images(tmp_path / "strange", 2)
    (strange / "red").rename(strange / "reed")
    job = run_training(tmp_path / "job", {"test": strange, "model": artifact}, EVALUATE)
    assert job.exit_code == 1
    assert "'reed' (did you mean 'red'?)" in job.failure


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """A state dict without its last layer."""
    folder = tmp_path / "headless"
    folder.mkdir()
    state = {name: tensor for name, tensor in resnet18().state_dict().items() if not name.startswith("fc.")}
    torch.save(state, folder / "resnet18.pth")
    return folder


def test_random_head_is_not_evaluated_silently(tmp_path: Path, holdout: Path, headless: Path) -> None:
    job = run_training(tmp_path / "job", {"test": holdout, "model": headless}, EVALUATE)
    assert job.exit_code == 1
    assert job.failure.startswith("strategy=evaluate needs the top layer of the weights, but the weights have no top")


def test_included_weights_have_imagenet_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baked = tmp_path / "pretrained"
    baked.mkdir()
    torch.save(resnet18().state_dict(), baked / "resnet18.pth")
    monkeypatch.setenv("FINETUNE_PRETRAINED", str(baked))
    data = write_images(tmp_path / "data", 2)
    for colour, category in zip(COLORS, ("tench", "crane", "crane bird"), strict=True):
        (data / colour).rename(data / category)
    options = {**EVALUATE, "model_name": "resnet18", "image_size": "32"}
    job = succeeded(run_training(tmp_path / "job", {"test": data}, options))
    assert job.artifact()["labels"] == ResNet18_Weights.DEFAULT.meta["categories"]
    (data / "crane").rename(data / "cranes")
    refused = run_training(tmp_path / "refused", {"test": data}, options)
    assert refused.exit_code == 1
    assert "classes that are missing from the model: 'cranes' (did you mean 'crane'?)" in refused.failure
