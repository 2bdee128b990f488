"""`finetune.load` predicts as the artifact's handler does."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import finetune
from finetune.errors import UserError
from finetune.export.handler import load_handler
from finetune.serving.predictor import Input, Predictor
from tests.support.artifact_folders import bert_folder
from tests.support.exported_models import LABELS, ModelSetup

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def image_predictor(image_root: Path) -> Predictor:
    return finetune.load(image_root)


@pytest.fixture(scope="module")
def text_predictor(text_root: Path) -> Predictor:
    return finetune.load(text_root / "model")


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, ".")
    return archive


def test_images_are_classified_as_by_the_handler(
    image_predictor: Predictor, image_root: Path, images: list[bytes], tmp_path: Path
) -> None:
    folder = image_root / "model"
    handler = load_handler(folder)
    expected = handler.predict_fn(handler.Request(images * 2, single=False), handler.model_fn(str(folder))).records
    predictions = image_predictor.predict(images * 2)
    assert [prediction.label for prediction in predictions] == [record["predicted_label"] for record in expected]
    for prediction, record in zip(predictions, expected, strict=True):
        assert list(prediction.probabilities) == list(LABELS)
        assert list(prediction.probabilities.values()) == pytest.approx(record["probabilities"], abs=TOLERANCE)


def test_files_bytes_and_images_are_the_same(image_predictor: Predictor, images: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(images[0])
    expected = image_predictor.predict(images[0])
    for value in (path, str(path), Image.open(io.BytesIO(images[0]))):
        assert image_predictor.predict(value).probabilities == expected.probabilities


def test_texts_are_classified(text_predictor: Predictor) -> None:
    alone = text_predictor.predict("a good film")
    first, second = text_predictor.predict(["a good film", "a very, very long and bad book"])
    assert alone.label == first.label
    assert list(alone.probabilities.values()) == pytest.approx(list(first.probabilities.values()), abs=TOLERANCE)
    assert first.probabilities != second.probabilities


def test_pairs_of_texts_are_classified(tmp_path: Path) -> None:
    setup = ModelSetup(None, bert_folder(tmp_path / "source"), task="text-classification")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"), texts_per_record=2)
    predictor = finetune.load(tmp_path)
    assert predictor.predict(("a good film", "a bad book")).label in LABELS
    assert len(predictor.predict([("a", "b"), ("c", "d")])) == 2


def test_several_labels_are_predicted(tmp_path: Path, images: list[bytes]) -> None:
    setup = ModelSetup("resnet18", multi_label=True)
    setup.export(tmp_path, setup.build(tmp_path / "scratch"))
    for prediction in finetune.load(tmp_path).predict(images):
        above = tuple(name for name, value in prediction.probabilities.items() if value > 0.5)
        assert prediction.labels == above
        assert prediction.label == max(above, key=lambda name: prediction.probabilities[name], default=None)


def test_options_limit_classes_and_abstain(image_predictor: Predictor, images: list[bytes]) -> None:
    every = image_predictor.predict(images)
    limit = 0.999 * max(max(prediction.probabilities.values()) for prediction in every)
    limited = image_predictor.predict(images, top_k=2, min_confidence=limit)
    assert {prediction.label is None for prediction in limited} == {False, True}
    for prediction, whole in zip(limited, every, strict=True):
        expected = sorted(whole.probabilities, key=lambda name: -whole.probabilities[name])[:2]
        assert list(prediction.probabilities) == expected
        assert prediction.label == (whole.label if whole.probabilities[expected[0]] >= limit else None)
    assert len(image_predictor.predict(images[0], top_k=99).probabilities) == len(LABELS)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"min_confidence": 1.5}])
def test_invalid_options_are_refused(
    image_predictor: Predictor, images: list[bytes], options: dict[str, float]
) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}="):
        image_predictor.predict(images, **options)  # type: ignore[call-overload]


def test_errors_stand_in_place_of_results(image_predictor: Predictor, images: list[bytes]) -> None:
    inputs: list[Input] = [images[0], b"no image", images[1], "missing.png", images[2]]
    outcomes = list(image_predictor.outcomes(inputs, {}, batch_size=2))
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, True, False, True, False]
    assert [str(outcomes[3])] == ["No such file or directory"]
    expected = image_predictor.predict([images[0], images[1], images[2]])
    results = [outcome for outcome in outcomes if not isinstance(outcome, ValueError)]
    for result, prediction in zip(results, expected, strict=True):
        assert result["probabilities"] == pytest.approx(list(prediction.probabilities.values()), abs=TOLERANCE)


def test_device_is_chosen(image_root: Path, images: list[bytes]) -> None:
    assert finetune.load(image_root, device="cpu").predict(images[0]).label in LABELS
    for name in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"device '{name}' is not available: use cpu"):
            finetune.load(image_root, device=name)


@pytest.mark.parametrize(
    "place",
    [
        lambda model, tmp: packed(model, tmp / "model.tar.gz"),
        lambda model, tmp: packed(model, tmp / "renamed.tgz"),
        lambda model, tmp: packed(model, tmp / "model.tar.gz").parent,
        lambda model, tmp: Path(shutil.copytree(model, tmp / "model")).parent,
    ],
    ids=["archive", "renamed archive", "folder with archive", "job folder"],
)
def test_models_are_found(
    place: Callable[[Path, Path], Path], text_root: Path, tmp_path: Path, text_predictor: Predictor
) -> None:
    predictor = finetune.load(str(place(text_root / "model", tmp_path)))
    assert predictor.labels == LABELS
    assert predictor.predict("bad").probabilities == text_predictor.predict("bad").probabilities


def test_missing_models_are_reported(tmp_path: Path, image_root: Path) -> None:
    with pytest.raises(UserError, match=r"contains no model of this project: neither artifact\.json"):
        finetune.load(tmp_path)
    with pytest.raises(UserError, match="not a local path; download it"):
        finetune.load("s3://bucket/model.tar.gz")
    shutil.copytree(image_root / "model", tmp_path / "model")
    path = tmp_path / "model" / "code" / "inference.py"
    path.write_text(path.read_text("utf-8").replace("def prepare_fn", "def other_fn"), encoding="utf-8")
    with pytest.raises(UserError, match="exported by an earlier version"):
        finetune.load(tmp_path)


def test_invalid_inputs_are_named(image_predictor: Predictor, text_predictor: Predictor, images: list[bytes]) -> None:
    for predictor, value, cause in (
        (image_predictor, b"no image", "the image cannot be decoded"),
        (image_predictor, "missing.png", "No such file or directory"),
        (image_predictor, ("a", "b"), "this model expects images"),
        (text_predictor, images[0], "this model expects texts, not bytes"),
        (text_predictor, "", "the text is empty"),
        (text_predictor, ("a", "b"), "this model expects 1 text"),
    ):
        good = images[0] if predictor is image_predictor else "good"
        with pytest.raises(ValueError, match=rf"input 1 \(counted from 0\): .*{re.escape(cause)}"):
            predictor.predict([good, value])


def test_artifact_is_unchanged(image_root: Path) -> None:
    files = json.loads((image_root / "model" / "artifact.json").read_text("utf-8"))["files"]
    finetune.load(image_root)
    found = [path.relative_to(image_root / "model").as_posix() for path in (image_root / "model").rglob("*")]
    assert sorted(set(found) - {"code"}) == sorted(files)
