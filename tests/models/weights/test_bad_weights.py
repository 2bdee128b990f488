"""Error messages for unusable weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.load import load_backbone
from tests.support.model_requests import LABELS, request_model

NAME = "mobilenet_v3_small"


def refusal(tmp_path: Path, name: str | None = NAME, **options: Any) -> str:  # noqa: ANN401 - arguments of `ask`
    with pytest.raises(UserError) as caught:
        load_backbone(request_model(name, tmp_path, **{"channel": tmp_path, **options}))
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_unknown_model_name_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "resnet51", channel=None).startswith(
        "model_name='resnet51' is unknown (did you mean 'resnet50'?). Supported are"
    )


@pytest.mark.parametrize(
    ("name", "task", "fact"),
    [
        ("resnet18", "text-classification", "is a model for image-classification, but the task is text"),
        ("roberta-base", "image-classification", "is a model for text-classification, but the task is image"),
    ],
)
def test_model_for_another_task_is_refused(name: str, task: str, fact: str, tmp_path: Path) -> None:
    assert fact in refusal(tmp_path, name, task=task, channel=None)


def test_missing_weights_without_network_access_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    message = refusal(tmp_path, channel=None)
    assert message.startswith(f"There are no local weights for '{NAME}', and the download failed")
    assert all(f"({number})" in message for number in (1, 2, 3))
    assert "no route to host" in message


def test_empty_channel_is_refused(tmp_path: Path) -> None:
    assert "contains no supported model; it contains nothing" in refusal(tmp_path)


def test_missing_channel_folder_is_refused(tmp_path: Path) -> None:
    assert "The folder of the model channel does not exist" in refusal(tmp_path, channel=tmp_path / "absent")


def test_channel_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "it contains notes.txt. Provide one archive" in refusal(tmp_path)


def test_two_weight_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.safetensors").touch()
    assert "several weight files (a.pth, b.safetensors)" in refusal(tmp_path)


class Payload:
    """Code that a malicious file would run."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_not_loaded(zipped: bool, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save({"state_dict": Payload(victim)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path)
    assert "w.pth cannot be read as plain tensors: it calls posix.mkdir" in message
    assert "weights_only" not in message
    assert "safetensors" in message
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"not a file of torch", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_damaged_torch_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert "w.pth cannot be read as plain tensors" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 32])
def test_damaged_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "w.safetensors is not a safetensors file, or is damaged" in refusal(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 1}}, torch.zeros(2)])
def test_torch_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "instead of a state dict" in refusal(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(get_model("resnet34", weights=None, num_classes=3).state_dict(), tmp_path / "w.safetensors")
    message = refusal(tmp_path, "resnet18")
    assert "belong to another model than model_name='resnet18': 120 of 120 tensors match" in message
    assert "layer1.2.bn1.bias is unexpected" in message
    assert "They match 'resnet34': set model_name accordingly." in message


def test_weights_with_other_shapes_are_refused(tmp_path: Path) -> None:
    state = get_model(NAME, weights=None, num_classes=3).state_dict()
    state["features.0.0.weight"] = torch.zeros(8, 3, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(tmp_path)
    assert "features.0.0.weight has shape" in message
    assert f"Provide the weights of a {NAME}" in message


def test_unrecognized_weights_are_refused(tmp_path: Path) -> None:
    save_file({"mine": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert "The model of the weights in w.safetensors cannot be inferred: set model_name" in refusal(tmp_path, None)
    assert ": 0 of 242 tensors match" in refusal(tmp_path)


def test_model_name_must_match_the_artifact(tmp_path: Path) -> None:
    artifact = {"framework": "torchvision", "architecture": NAME, "labels": LABELS}
    (tmp_path / "artifact.json").write_text(json.dumps(artifact))
    save_file(get_model(NAME, weights=None, num_classes=3).state_dict(), tmp_path / "model.safetensors")
    assert f"model_name='resnet18', but the model channel contains a {NAME}" in refusal(tmp_path, "resnet18")
    assert "contains a torchvision artifact" in refusal(tmp_path, "google/vit-base-patch16-224")
    assert "a model for image-classification" in refusal(tmp_path, None, task="text-classification")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "artifact.json in the model channel cannot be read"),
        ("[]", "is not a JSON object"),
        ("{}", "has an unknown framework or architecture"),
        ('{"framework": "torchvision", "architecture": "resnet18"}', "model.safetensors is missing"),
    ],
)
def test_damaged_artifact_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_text(content)
    assert message in refusal(tmp_path, None)


def test_artifact_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_text('{"framework": "torchvision", "architecture": "resnet19"}')
    save_file({"mine": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "'resnet19' in the model channel is not a supported torchvision classifier" in refusal(tmp_path, None)


def test_misspelled_model_name_is_refused(tmp_path: Path) -> None:
    save_file({"mine": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert refusal(tmp_path, "resnt18").startswith(
        "model_name='resnt18' is not a supported torchvision classifier (did you mean 'resnet18'?)"
    )


def test_unusable_head_is_refused(tmp_path: Path) -> None:
    save_file(get_model(NAME, weights=None, num_classes=7).state_dict(), tmp_path / "w.safetensors")
    assert "the weights have 7 classes and the data 3 classes" in refusal(tmp_path, reinitialize="false")


def test_model_name_outside_the_weights_folder_is_refused(tmp_path: Path) -> None:
    save_file({"mine": torch.zeros(1)}, tmp_path / "outside.safetensors")
    (tmp_path / "baked").mkdir()
    message = refusal(tmp_path, "../outside", channel=None, baked=tmp_path / "baked")
    assert message.startswith("There are no local weights for '../outside'")


def test_named_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "is not a folder with a model" in refusal(tmp_path, str(tmp_path / "absent"), channel=None)
