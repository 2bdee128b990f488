"""Decisions of the handler: options of a request, thresholds and temperature of the artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune.export.inference import (
    Options,
    Request,
    apply_options,
    input_fn,
    model_fn,
    parse_options,
    predict_fn,
)
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import ModelSetup

RECORD = {"probabilities": [0.2, 0.5, 0.3], "labels": ["a", "b", "c"], "predicted_label": "b"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    setup = ModelSetup("resnet18", labels=("no", "yes"))
    setup.export(folder / "model", setup.build(folder / "scratch"))
    return folder / "model"


def set_field(artifact: Path, copy: Path, name: str, value: object) -> Path:
    """Copy the artifact with a field of `artifact.json`."""
    copy.mkdir()
    for path in artifact.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    fields = json.loads((copy / "artifact.json").read_text(encoding="utf-8"))
    (copy / "artifact.json").write_text(json.dumps({**fields, name: value}), encoding="utf-8")
    return copy


def probabilities(folder: Path) -> list[list[float]]:
    images = [encode_image(make_image(seed)) for seed in range(3)]
    return [
        record["probabilities"] for record in predict_fn(Request(images, single=False), model_fn(str(folder))).records
    ]


def test_options_are_parsed() -> None:
    assert parse_options({}) == Options()
    assert parse_options({"top_k": "3", "min_confidence": "0.5"}) == Options(3, 0.5)


def test_top_k_sorts_by_probability() -> None:
    changed = apply_options(RECORD, Options(top_k=2))
    assert changed == {"probabilities": [0.5, 0.3], "labels": ["b", "c"], "predicted_label": "b"}
    assert RECORD["labels"] == ["a", "b", "c"]


@pytest.mark.parametrize(("minimum", "predicted"), [(0.5, "b"), (0.51, None)])
def test_confidence_is_that_of_the_predicted_label(minimum: float, predicted: str | None) -> None:
    assert apply_options(RECORD, Options(min_confidence=minimum))["predicted_label"] == predicted


def test_label_below_its_confidence_is_not_replaced_by_the_most_probable() -> None:
    """With thresholds, the predicted label need not be the most probable one."""
    decided = {**RECORD, "predicted_label": "c"}
    assert apply_options(decided, Options(min_confidence=0.4))["predicted_label"] is None


def test_each_of_several_labels_needs_the_confidence() -> None:
    record = {"probabilities": [0.9, 0.6, 0.2], "labels": ["a", "b", "c"], "predicted_labels": ["a", "b"]}
    assert apply_options(record, Options(min_confidence=0.7))["predicted_labels"] == ["a"]


def test_temperature_softens_probabilities(artifact: Path, tmp_path: Path) -> None:
    softened = probabilities(set_field(artifact, tmp_path / "softened", "temperature", 2.0))
    for row, plain in zip(softened, probabilities(artifact), strict=True):
        expected = (torch.tensor(plain).log() / 2).softmax(dim=0).tolist()
        assert row == pytest.approx(expected, abs=1e-5)


def test_thresholds_decide(artifact: Path, tmp_path: Path) -> None:
    folder = set_field(artifact, tmp_path / "decided", "thresholds", [1.0, 0.0])
    image = encode_image(make_image(1))
    (record,) = predict_fn(input_fn(image, "image/png"), model_fn(str(folder))).records
    assert record["predicted_label"] == "yes"
