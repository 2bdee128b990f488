"""The exported artifact, opened by its own handler, reproduces the model's evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.data.record import Content
from finetune.export.handler import load_handler
from finetune.export.verify import ArtifactMismatch, VerificationSample, tolerance_on, verify
from finetune.models.backbone import Backbone
from tests.support.artifact_folders import bert_folder, distilbert_folder, gpt2_folder, vit_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate

CPU = tolerance_on("cpu")
NAMES = ["resnet18", "mobilenet_v3_small", "googlenet", "regnet_y_400mf", "swin_t"]
IMAGES: list[Content] = [
    encode_image(make_image(1), "JPEG"),
    encode_image(make_image(2, "RGBA")),
    encode_image(make_image(3, "CMYK", (60, 33)), "JPEG"),
]
TEXTS: list[Content] = [("a good book",), ("a very long film , not good",), ("bad",), ("short unheard words " * 20,)]
PAIRS: list[Content] = [("a good book", "not a bad book"), ("bad " * 30, "good " * 30)]
Folder = Callable[[Path], Path]


def build_and_export(source: ModelSetup, tmp_path: Path, texts_per_record: int = 1) -> tuple[Path, Backbone]:
    backbone, folder = source.build(tmp_path / "scratch"), tmp_path / "model"
    source.export(folder, backbone, texts_per_record)
    return folder, backbone


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_artifact_reproduces_predictions(name: str, tmp_path: Path) -> None:
    folder, backbone = build_and_export(ModelSetup(name), tmp_path)
    samples = evaluate(backbone, IMAGES)
    assert verify(folder, samples, CPU) <= CPU
    assert len({sample.probabilities for sample in samples}) == len(samples)


@pytest.mark.parametrize("build", [bert_folder, distilbert_folder, gpt2_folder])
def test_text_artifact_reproduces_predictions_of_a_padded_batch(build: Folder, tmp_path: Path) -> None:
    source = ModelSetup(None, build(tmp_path / "source"), task="text-classification")
    folder, backbone = build_and_export(source, tmp_path)
    samples = evaluate(backbone, TEXTS)
    assert verify(folder, samples, CPU) <= CPU
    assert len({sample.probabilities for sample in samples}) == len(samples)


@pytest.mark.parametrize("build", [bert_folder, distilbert_folder])
def test_text_pair_artifact_reproduces_predictions(build: Folder, tmp_path: Path) -> None:
    source = ModelSetup(None, build(tmp_path / "source"), task="text-classification")
    folder, backbone = build_and_export(source, tmp_path, texts_per_record=2)
    assert verify(folder, evaluate(backbone, PAIRS), CPU) <= CPU


def test_transformers_image_artifact_reproduces_predictions(tmp_path: Path) -> None:
    folder, backbone = build_and_export(ModelSetup(None, vit_folder(tmp_path / "source"), image_size=None), tmp_path)
    assert verify(folder, evaluate(backbone, IMAGES), CPU) <= CPU


def test_multi_label_artifact_reproduces_predictions(tmp_path: Path) -> None:
    folder, backbone = build_and_export(ModelSetup("resnet18", multi_label=True), tmp_path)
    samples = evaluate(backbone, IMAGES, multi_label=True)
    assert verify(folder, samples, CPU) <= CPU
    handler = load_handler(folder)
    predictions = handler.predict_fn(handler.input_fn(IMAGES[0], "image/jpeg"), handler.model_fn(str(folder)))
    above = [label for label, value in zip(LABELS, samples[0].probabilities, strict=True) if value > 0.5]
    assert predictions.records[0]["predicted_labels"] == above


@pytest.mark.parametrize("build", [bert_folder, gpt2_folder])
def test_transformers_pipeline_predicts_the_same_label(build: Folder, tmp_path: Path) -> None:
    from transformers import pipeline

    source = ModelSetup(None, build(tmp_path / "source"), task="text-classification")
    folder, backbone = build_and_export(source, tmp_path)
    samples = evaluate(backbone, TEXTS[:3])
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    for sample in samples:
        (prediction,) = classify([str(sample.content[0])])
        best = max(sample.probabilities)
        assert prediction["label"] == LABELS[sample.probabilities.index(best)]
        assert prediction["score"] == pytest.approx(best, abs=CPU)


def test_transformers_pipeline_preprocesses_images_similarly(tmp_path: Path) -> None:
    from transformers import pipeline

    folder, backbone = build_and_export(ModelSetup(None, vit_folder(tmp_path / "source"), image_size=None), tmp_path)
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    for seed in range(4):
        image = make_image(seed, size=(16, 16))
        (sample,) = evaluate(backbone, [encode_image(image)])
        prediction = {predictions["label"]: predictions["score"] for predictions in classify(image)}
        assert [prediction[label] for label in LABELS] == pytest.approx(sample.probabilities, abs=1e-3)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[VerificationSample]]:
    folder, backbone = build_and_export(ModelSetup("resnet18"), tmp_path_factory.mktemp("resnet"))
    return folder, evaluate(backbone, IMAGES)


def test_changed_weight_is_detected(resnet: tuple[Path, list[VerificationSample]], tmp_path: Path) -> None:
    folder, backbone = build_and_export(ModelSetup("resnet18"), tmp_path)
    samples = evaluate(backbone, IMAGES)
    weights = load_file(folder / "model.safetensors")
    weights["fc.bias"][0] += 0.01
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ArtifactMismatch, match=r"predicts \[.*\] for record 0, the model \[.*\]"):
        verify(folder, samples, CPU)


@pytest.mark.parametrize(
    ("key", "value"), [("mean", [0.0, 0.0, 0.0]), ("resize", 60), ("interpolation", "nearest"), ("size", 64)]
)
def test_changed_preprocessing_is_detected(key: str, value: object, tmp_path: Path) -> None:
    folder, backbone = build_and_export(ModelSetup("resnet18"), tmp_path)
    samples = evaluate(backbone, IMAGES)
    description = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    description["preprocessing"][key] = value
    (folder / "artifact.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ArtifactMismatch, match=r"record \d"):
        verify(folder, samples, CPU)


def test_missing_class_is_detected(resnet: tuple[Path, list[VerificationSample]]) -> None:
    folder, samples = resnet
    with pytest.raises(ArtifactMismatch, match="the classes differ"):
        verify(folder, [replace(samples[0], probabilities=samples[0].probabilities[:2])], CPU)


def test_largest_difference_is_returned(resnet: tuple[Path, list[VerificationSample]]) -> None:
    folder, samples = resnet
    first, *others = samples[1].probabilities
    shifted = replace(samples[1], probabilities=(first + 0.004, *others))
    assert verify(folder, [samples[0], shifted], 5e-3) == pytest.approx(0.004, abs=1e-5)


def test_verification_leaves_no_files_or_modules(resnet: tuple[Path, list[VerificationSample]]) -> None:
    folder, samples = resnet
    before, modules = sorted(folder.rglob("*")), set(sys.modules)
    verify(folder, samples, CPU)
    assert sorted(folder.rglob("*")) == before
    assert "artifact_inference" not in set(sys.modules) - modules


def test_nan_predictions_match(tmp_path: Path) -> None:
    source = ModelSetup("resnet18")
    backbone = source.build(tmp_path / "scratch")
    with torch.no_grad():
        next(backbone.module.parameters()).fill_(float("nan"))
    source.export(tmp_path / "model", backbone)
    assert verify(tmp_path / "model", evaluate(backbone, IMAGES[:1]), CPU) == 0.0
