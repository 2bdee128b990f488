"""Jobs run in the image in every way a client can choose, with the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torchvision.models import get_model

from sagemaker_simulator import TrainingRequest
from tests.image.containers import UNPRIVILEGED, ContainerRunner, RunOptions
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import build_request

SCRATCH = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "epochs": "2", "batch_size": "8"}


@pytest.fixture
def image_request(train_images: Path, validation_images: Path) -> TrainingRequest:
    return build_request({"train": train_images, "validation": validation_images}, SCRATCH)


@pytest.mark.parametrize(
    "run_options",
    [
        pytest.param(UNPRIVILEGED, id="any user, read-only root"),
        pytest.param(RunOptions(command=()), id="root, no command"),
        pytest.param(RunOptions(0, ("--init",)), id="started by docker's init"),
    ],
)
def test_job_succeeds_with_run_options(
    run_options: RunOptions, image_request: TrainingRequest, runner: ContainerRunner, tmp_path: Path
) -> None:
    code, container = runner.run(tmp_path / "ml", image_request, run_options)
    assert code == 0, container.log()
    assert (container.folder.output / "success").exists()
    assert {path.name for path in container.folder.model.iterdir()} >= {"model.safetensors", "artifact.json", "code"}
    assert container.metrics()["validation"]["records"] == 24
    assert "WARNING" not in container.log()


def test_weights_in_image_need_no_hub(
    train_images: Path, validation_images: Path, runner: ContainerRunner, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = get_model("resnet18", weights=None)
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    (tmp_path / "resnet18.safetensors").chmod(0o644)
    hyperparameters = {"strategy": "feature_extraction", "model_name": "resnet18", "image_size": "64", "epochs": "1"}
    request = build_request({"train": train_images, "validation": validation_images}, hyperparameters)
    weights_volume = ("--volume", f"{tmp_path / 'resnet18.safetensors'}:/opt/pretrained/resnet18.safetensors:ro")
    code, container = runner.run(
        tmp_path / "ml", request, RunOptions(UNPRIVILEGED.user, (*UNPRIVILEGED.options, *weights_volume))
    )
    assert code == 0, container.log()
    assert "weights in the image" in container.log()
    assert torch.equal(load(container.weights())["conv1.weight"], model.conv1.weight)


def test_missing_weights_without_network_access_are_reported(
    train_images: Path, runner: ContainerRunner, tmp_path: Path
) -> None:
    request = build_request({"train": train_images}, {"model_name": "resnet18"})
    code, container = runner.run(tmp_path / "ml", request)
    assert code == 1
    assert container.failure.startswith("There are no local weights for 'resnet18'")


def test_text_job(runner: ContainerRunner, tmp_path: Path) -> None:
    """transformers works without the parts of PyTorch that the image omits."""
    write_folder(tmp_path / "source", "distilbert")
    for file in (tmp_path / "source").iterdir():
        file.chmod(0o644)
    (tmp_path / "data").mkdir()
    rows = [f"{word} number {number},{word}" for word in ("good", "bad") for number in range(12)]
    (tmp_path / "data" / "train.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    request = build_request({"train": tmp_path / "data", "model": tmp_path / "source"}, {"epochs": "1"})
    code, container = runner.run(tmp_path / "ml", request)
    assert code == 0, container.log()
    assert (container.folder.model / "config.json").exists()
