"""Every image classification family of transformers is a complete Backbone with its folder's preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finetune.errors import UserError
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.heads import DropoutLinear
from finetune.models.load import load_backbone
from tests.support.model_requests import (
    LABELS,
    assert_is_partition,
    groups_in_order_of_calls,
    inputs_of,
    logits_of,
    request_model,
)
from tests.support.tiny_transformers import IMAGE_TYPES, write_folder, write_processor


@pytest.fixture(scope="module", params=IMAGE_TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder") / request.param, request.param, labels=("no", "yes"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(request_model(None, folder.parent, channel=folder))


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "vit", "vit")


def test_forward_returns_one_logit_per_class(backbone: Backbone) -> None:
    assert backbone.forward(inputs_of(backbone)).logits.shape == (2, len(LABELS))


def test_layer_groups_partition_the_model_in_execution_order(backbone: Backbone) -> None:
    assert_is_partition(backbone)
    names = [group.name for group in backbone.layer_groups()]
    assert names[1:] == ["layer1", "layer2", "head"]
    assert groups_in_order_of_calls(backbone) == names


def test_preprocessing_comes_from_the_folder(backbone: Backbone) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.5)
    assert backbone.expects == ImageInput(32, 32, "bicubic", mean, std, stretch=True, floor_crop=True)


def test_saved_model_loads_in_transformers(backbone: Backbone, tmp_path: Path) -> None:
    from transformers import pipeline

    backbone.save(tmp_path)
    classify: Any = pipeline("image-classification", model=str(tmp_path), device="cpu")
    assert type(classify.model).__name__ == backbone.describe().architecture
    pixels = inputs_of(backbone)["pixels"][:1]
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    expected = logits_of(backbone)[0].softmax(0)
    scores = {prediction["label"]: prediction["score"] for prediction in classify(image)}
    assert scores == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)


def test_saved_model_reloads_with_its_head(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    again = load_backbone(request_model(None, tmp_path, channel=tmp_path))
    assert again.weights.kept_head
    assert again.expects == backbone.expects
    assert torch.equal(logits_of(again), logits_of(backbone))


def test_dropout_before_the_classifier_keeps_parameter_names(folder: Path, backbone: Backbone) -> None:
    dropping = load_backbone(request_model(None, folder.parent, channel=folder, dropout=0.5))
    assert [module.p for module in dropping.module.modules() if isinstance(module, DropoutLinear)] == [0.5]
    assert set(dropping.module.state_dict()) == set(backbone.module.state_dict())


def test_artifact_provides_labels_and_preprocessing(vit: Path, tmp_path: Path) -> None:
    preprocessing = {"size": 32, "resize": 50, "interpolation": "nearest", "mean": [0.1] * 3, "std": [0.2] * 3}
    artifact = {"framework": "transformers", "name": "my-vit", "labels": ["b", "a"], "preprocessing": preprocessing}
    (vit / "artifact.json").write_text(json.dumps(artifact), encoding="utf-8")
    backbone = load_backbone(request_model(None, tmp_path, channel=vit, labels=("a", "b")))
    assert (backbone.name, backbone.weights.labels, backbone.weights.kept_head) == ("my-vit", ("b", "a"), True)
    assert backbone.weights.source == "model channel (artifact of an earlier job)"
    assert backbone.expects == ImageInput(32, 50, "nearest", (0.1,) * 3, (0.2,) * 3)


def test_image_size_scales_resize_and_position_embeddings(vit: Path, tmp_path: Path) -> None:
    write_processor(vit, size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    backbone = load_backbone(request_model(None, tmp_path, channel=vit, image_size=64))
    assert isinstance(backbone.expects, ImageInput)
    assert (backbone.expects.size, backbone.expects.resize) == (64, 80)
    saved = tmp_path / "saved"
    saved.mkdir()
    backbone.save(saved)
    again = load_backbone(request_model(None, tmp_path, channel=saved))
    assert again.expects == backbone.expects
    assert torch.equal(logits_of(again), logits_of(backbone))


def test_crop_pct_increases_the_resize(vit: Path, tmp_path: Path) -> None:
    kind = "ConvNextImageProcessor"
    write_processor(vit, image_processor_type=kind, size={"shortest_edge": 32}, crop_pct=0.8, resample=2)
    expects = load_backbone(request_model(None, tmp_path, channel=vit)).expects
    assert isinstance(expects, ImageInput)
    assert (expects.size, expects.resize, expects.interpolation) == (32, 40, "bilinear")


def test_missing_preprocessing_is_refused(vit: Path, tmp_path: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        load_backbone(request_model(None, tmp_path, channel=vit))


@pytest.mark.parametrize(("model_type", "size", "advice"), [("vit", 30, "a multiple of 8"), ("swin", 16, "32 or more")])
def test_unsuitable_image_size_is_refused(model_type: str, size: int, advice: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type)
    with pytest.raises(UserError, match=rf"image_size={size} .*{advice}"):
        load_backbone(request_model(None, tmp_path, channel=folder, image_size=size))


def test_saved_processor_contains_the_crop(vit: Path, tmp_path: Path) -> None:
    write_processor(vit, size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    backbone = load_backbone(request_model(None, tmp_path, channel=vit))
    backbone.save(tmp_path)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 32}
    assert processor["crop_size"] == {"height": 32, "width": 32}
