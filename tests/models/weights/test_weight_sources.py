"""Weights are found in every supported location, in the documented order, and the loaded source is logged."""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone, locate_source, source_classes
from finetune.models.weights.matching import matching_models
from tests.support.model_requests import LABELS, logits_of, request_model

NAME = "mobilenet_v3_small"
BODY = "features.0.0.weight"
HEAD = "classifier.3.weight"
State = dict[str, Tensor]


def state_of(name: str = NAME, classes: int = len(LABELS), seed: int = 9) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        state: State = get_model(name, weights=None, num_classes=classes).state_dict()
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return state_of()


def has_weights(backbone: Backbone, state: State, name: str = BODY) -> bool:
    return torch.equal(backbone.module.state_dict()[name], state[name])


def write_artifact(folder: Path, backbone: Backbone, labels: tuple[str, ...] = LABELS) -> None:
    """Write the parts of an earlier job's `model/` that the next job reads."""
    folder.mkdir(parents=True)
    backbone.save(folder)
    description = backbone.describe()
    artifact = {
        "format_version": 1,
        "name": backbone.name,
        "framework": description.framework,
        "architecture": description.architecture,
        "arguments": description.arguments,
        "multi_label": False,
        "labels": labels,
        "preprocessing": asdict(backbone.expects) if description.framework == "torchvision" else {},
    }
    (folder / "artifact.json").write_text(json.dumps(artifact), encoding="utf-8")


def pack(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=".")


@pytest.mark.parametrize("form", ["model.tar.gz", "unpacked", "in a folder of the channel"])
def test_artifact_of_an_earlier_job_is_loaded(form: str, tmp_path: Path) -> None:
    earlier = load_backbone(request_model(NAME, tmp_path, pretrained=False, image_size=48))
    channel = tmp_path / "channel"
    if form == "model.tar.gz":
        write_artifact(tmp_path / "model", earlier)
        pack(tmp_path / "model", channel / form)
    else:
        write_artifact(channel / "model" if "folder" in form else channel, earlier)
    backbone = load_backbone(request_model(None, tmp_path, channel=channel))
    assert (backbone.name, backbone.expects) == (NAME, earlier.expects)
    assert torch.equal(logits_of(backbone), logits_of(earlier))
    assert (backbone.weights.kept_head, backbone.weights.labels) == (True, LABELS)
    assert "artifact of an earlier job" in backbone.weights.source
    assert (backbone.weights.newly_initialized, backbone.weights.unused) == ((), ())


def test_same_classes_in_another_order_reuse_their_rows(tmp_path: Path) -> None:
    earlier = load_backbone(request_model(NAME, tmp_path, pretrained=False))
    write_artifact(tmp_path / "channel", earlier, labels=("dog", "bird", "cat"))
    backbone = load_backbone(request_model(None, tmp_path, channel=tmp_path / "channel"))
    assert torch.equal(logits_of(backbone), logits_of(earlier)[:, [1, 2, 0]])


def test_other_classes_get_a_new_head(tmp_path: Path) -> None:
    earlier = load_backbone(request_model(NAME, tmp_path, pretrained=False))
    write_artifact(tmp_path / "channel", earlier, labels=("a", "b", "c"))
    backbone = load_backbone(request_model(None, tmp_path, channel=tmp_path / "channel"))
    assert set(backbone.weights.newly_initialized) == {"classifier.3.weight", "classifier.3.bias"}
    assert set(backbone.weights.unused) == set(backbone.weights.newly_initialized)
    assert not backbone.weights.kept_head
    assert has_weights(backbone, earlier.module.state_dict())


def test_classes_are_read_without_building_the_model(state: State, tmp_path: Path) -> None:
    write_artifact(tmp_path / "channel", load_backbone(request_model(NAME, tmp_path, pretrained=False)))
    (tmp_path / "bare").mkdir()
    save_file(state, tmp_path / "bare" / f"{NAME}.safetensors")

    def classes(channel: Path | None = None, baked: Path | None = None) -> tuple[str, ...] | None:
        request = request_model(NAME, tmp_path, channel=channel, baked=baked)
        return source_classes(request, locate_source(request))

    assert classes(channel=tmp_path / "channel") == LABELS
    assert classes(channel=tmp_path / "bare") is None
    assert len(classes() or ()) == 1000
    assert classes(baked=tmp_path / "bare") == classes()


def test_image_weights_with_other_classes_have_no_labels(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / f"{NAME}.safetensors")
    assert load_backbone(request_model(NAME, tmp_path, baked=tmp_path)).weights.labels is None


def test_duplicate_imagenet_names_are_distinguished(tmp_path: Path) -> None:
    request = request_model(NAME, tmp_path)
    names = source_classes(request, locate_source(request)) or ()
    assert len(set(names)) == 1000


def test_from_scratch_uses_the_architecture_without_weights(tmp_path: Path) -> None:
    earlier = load_backbone(request_model(NAME, tmp_path, pretrained=False, seed=7))
    write_artifact(tmp_path / "channel", earlier)
    backbone = load_backbone(request_model(None, tmp_path, channel=tmp_path / "channel", pretrained=False))
    assert (backbone.name, backbone.weights.source, backbone.weights.loaded) == (NAME, "random", ())
    assert not has_weights(backbone, earlier.module.state_dict())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "module."])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torch_state_dict_is_loaded(wrapper: str | None, suffix: str, state: State, tmp_path: Path) -> None:
    content: dict[str, object] = dict(state)
    if wrapper == "module.":
        content = {f"module.{name}": tensor for name, tensor in state.items()}
    elif wrapper is not None:
        content = {wrapper: state, "epoch": 3}
    torch.save(content, tmp_path / f"weights{suffix}")
    backbone = load_backbone(request_model(NAME, tmp_path, channel=tmp_path))
    assert set(backbone.weights.loaded) == set(state)
    assert backbone.weights.kept_head
    assert has_weights(backbone, state, HEAD)


def test_legacy_torch_file_is_loaded(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert has_weights(load_backbone(request_model(NAME, tmp_path, channel=tmp_path)), state)


def test_safetensors_file_in_an_archive_is_loaded(state: State, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(state, tmp_path / "model" / "anything.safetensors")
    pack(tmp_path / "model", tmp_path / "channel" / "model.tar.gz")
    assert has_weights(load_backbone(request_model(NAME, tmp_path, channel=tmp_path / "channel")), state)


@pytest.mark.parametrize("file", [f"{NAME}.safetensors", f"{NAME}-047dcff4.safetensors", "weights.safetensors"])
def test_unnamed_model_is_inferred_from_file_name_or_tensors(file: str, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / file)
    assert load_backbone(request_model(None, tmp_path, channel=tmp_path)).name == NAME


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "efficientnet_b0"])
def test_models_are_recognized_by_their_tensors(name: str) -> None:
    assert matching_models(state_of(name, classes=5)) == [name]


def test_legacy_tensor_names_are_renamed(tmp_path: Path) -> None:
    old = {
        name.replace("norm1.", "norm.1.").replace("conv1.", "conv.1.").replace("norm2.", "norm.2."): tensor
        for name, tensor in state_of("densenet121").items()
    }
    assert any(".norm.1." in name for name in old)
    torch.save(old, tmp_path / "densenet121.pth")
    assert load_backbone(request_model(None, tmp_path, channel=tmp_path)).weights.unused == ()


def test_auxiliary_heads_may_be_missing_or_unused(tmp_path: Path) -> None:
    whole = load_backbone(request_model("googlenet", tmp_path, pretrained=False)).module.state_dict()
    without = {name: tensor for name, tensor in whole.items() if not name.startswith("aux")}
    save_file(without, tmp_path / "googlenet.safetensors")
    weights = load_backbone(request_model("googlenet", tmp_path, channel=tmp_path)).weights
    assert set(weights.newly_initialized) == {name for name in whole if name.startswith("aux")}
    assert weights.kept_head


@pytest.mark.parametrize("file_name", [f"{NAME}.pth", f"{NAME}.safetensors", f"{NAME}/model.safetensors"])
def test_image_weights_are_loaded(file_name: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "baked" / file_name
    path.parent.mkdir(parents=True)
    (torch.save if path.suffix == ".pth" else save_file)(state, path)
    backbone = load_backbone(request_model(NAME, tmp_path, baked=tmp_path / "baked"))
    assert has_weights(backbone, state)
    assert backbone.weights.source.startswith("weights in the image")


def test_channel_takes_precedence_over_image_weights(state: State, tmp_path: Path) -> None:
    other = state_of(seed=10)
    for folder, weights in (("channel", state), ("baked", other)):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / f"{NAME}.safetensors")
    backbone = load_backbone(request_model(NAME, tmp_path, channel=tmp_path / "channel", baked=tmp_path / "baked"))
    assert has_weights(backbone, state)


def test_torchvision_weights_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = get_model_weights(NAME).DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    thousand = state_of(classes=1000)
    torch.save(thousand, cached)
    backbone = load_backbone(request_model(NAME, tmp_path, baked=tmp_path))
    assert has_weights(backbone, thousand)
    assert backbone.weights.source == "hub (torchvision, IMAGENET1K_V1)"
    assert (backbone.weights.labels or ())[:2] == ("tench", "goldfish")
    assert not backbone.weights.kept_head
