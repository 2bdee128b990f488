"""Jobs run in the image in every way a client can choose, with the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torchvision.models import get_model

from sagemaker_simulator import TrainingRequest
from tests.image.containers import AS_NOBODY, Harbour, Manner
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import build_request

SCRATCH = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "epochs": "2", "batch_size": "8"}


@pytest.fixture
def request_for_pictures(pictures: Path, unseen: Path) -> TrainingRequest:
    return build_request({"train": pictures, "validation": unseen}, SCRATCH)


@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(AS_NOBODY, id="any user, read-only root"),
        pytest.param(Manner(command=()), id="root, no command"),
        pytest.param(Manner(0, ("--init",)), id="behind docker's own init"),
    ],
)
def test_a_job_runs_in_this_manner(
    manner: Manner, request_for_pictures: TrainingRequest, harbour: Harbour, tmp_path: Path
) -> None:
    code, container = harbour.run(tmp_path / "ml", request_for_pictures, manner)
    assert code == 0, container.log()
    assert (container.folder.output / "success").exists()
    assert {path.name for path in container.folder.model.iterdir()} >= {"model.safetensors", "artifact.json", "code"}
    assert container.metrics()["validation"]["records"] == 24
    assert "WARNING" not in container.log()


def test_a_network_in_the_image_needs_no_hub(pictures: Path, unseen: Path, harbour: Harbour, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None)
    save_file(network.state_dict(), tmp_path / "resnet18.safetensors")
    (tmp_path / "resnet18.safetensors").chmod(0o644)
    hyperparameters = {"strategy": "feature_extraction", "model_name": "resnet18", "image_size": "64", "epochs": "1"}
    request = build_request({"train": pictures, "validation": unseen}, hyperparameters)
    baked = ("--volume", f"{tmp_path / 'resnet18.safetensors'}:/opt/pretrained/resnet18.safetensors:ro")
    code, container = harbour.run(tmp_path / "ml", request, Manner(AS_NOBODY.user, (*AS_NOBODY.options, *baked)))
    assert code == 0, container.log()
    assert "weights in the image" in container.log()
    assert torch.equal(load(container.weights())["conv1.weight"], network.conv1.weight)


def test_without_the_network_the_ways_to_give_weights_are_named(
    pictures: Path, harbour: Harbour, tmp_path: Path
) -> None:
    request = build_request({"train": pictures}, {"model_name": "resnet18"})
    code, container = harbour.run(tmp_path / "ml", request)
    assert code == 1
    assert container.failure.startswith("There are no local weights for 'resnet18' here")


def test_texts(harbour: Harbour, tmp_path: Path) -> None:
    """transformers works without the parts of PyTorch that the image omits."""
    write_folder(tmp_path / "network", "distilbert")
    for file in (tmp_path / "network").iterdir():
        file.chmod(0o644)
    (tmp_path / "data").mkdir()
    rows = [f"{word} number {number},{word}" for word in ("good", "bad") for number in range(12)]
    (tmp_path / "data" / "train.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    request = build_request({"train": tmp_path / "data", "model": tmp_path / "network"}, {"epochs": "1"})
    code, container = harbour.run(tmp_path / "ml", request)
    assert code == 0, container.log()
    assert (container.folder.model / "config.json").exists()
