"""The SDKs' local modes serve models with the image: endpoints and batch transform answer as the handler does."""

from __future__ import annotations

import ast
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.serving.predictor import Predictor
from tests.clients.local_mode import LocalJob, LocalMode
from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.coloured_images import write_images
from tests.support.exported_models import ModelSetup

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(1800)]

QUICK = ("model_name=resnet18", "strategy=from_scratch", "image_size=32", "epochs=1", "precision=fp32", "batch_size=16")
# Other numbers of threads round differently.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new-images")
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode_image(make_image(seed)))
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """`model.tar.gz` of an image model, alone in its folder, into which the SDKs unpack it."""
    setup = ModelSetup("resnet18")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"))
    return packed(tmp_path / "model", tmp_path / "archive")


def packed(model: Path, folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        tar.add(model, ".")
    return folder / "model.tar.gz"


def assert_same(answer: Mapping[str, Any], predictor: Predictor, value: Path | str, classes: int | None = None) -> None:
    """Compare an answer with the prediction in this process, of all classes or of the most probable ones."""
    expected = predictor.predict(value, top_k=classes)
    assert answer["predicted_label"] == expected.label
    assert answer["labels"] == list(expected.probabilities)
    assert answer["probabilities"] == pytest.approx(list(expected.probabilities.values()), abs=TOLERANCE)


def answer_of(job: LocalJob) -> Any:  # noqa: ANN401 - JSON
    assert job.exit_code == 0, job.log
    (text,) = re.findall(r"^The answer: (.*)$", job.log, re.MULTILINE)
    return json.loads(text) if text.startswith('{"') else ast.literal_eval(text)


def test_estimator_deploys_and_transforms_what_it_trained(
    local_mode: LocalMode, environment_of: Callable[[str], Path], images: Path, tmp_path: Path
) -> None:
    train = write_images(tmp_path / "train", 8)
    program, folder = Path(__file__).with_name("serve_locally.py"), local_mode.new_folder("estimator")
    arguments = (str(train), str(images), str(folder), *QUICK)
    job = local_mode.run_program(program, environment_of("sdk-v2"), folder, *arguments)
    assert job.exit_code == 0, job.log
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    predictor = finetune.load(job.model)
    for path in sorted(images.iterdir()):
        assert_same(answers[path.name], predictor, path)
        (line,) = (folder / "transformed" / f"{path.name}.out").read_text(encoding="utf-8").splitlines()
        assert_same(json.loads(line), predictor, path)
    assert_same(answers["top"], predictor, path, classes=1)


@pytest.mark.parametrize("sdk", ["sdk_v2", "sdk_v3"])
def test_endpoint_of_an_existing_model(local_mode: LocalMode, archive: Path, images: Path, sdk: str) -> None:
    predictor, image = finetune.load(archive), images / "1.png"
    job = local_mode.run(f"{sdk}/deploy", {}, "--model", f"file://{archive}", "--predict", str(image))
    assert_same(answer_of(job), predictor, image, classes=3)


def test_batch_transform_of_tables(local_mode: LocalMode, tmp_path: Path) -> None:
    setup = ModelSetup(None, bert_folder(tmp_path / "source"), task="text-classification")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"))
    model = packed(tmp_path / "model", tmp_path / "archive")
    predictor = finetune.load(model)
    texts = ["a good film", "bad, long book", "very short"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "texts.csv").write_text("".join(f'"{text}"\n' for text in texts), encoding="utf-8")
    channels = {"data": f"file://{tmp_path / 'data'}"}
    values = ("content_type=text/csv",)
    job = local_mode.run("sdk_v2/batch_transform", channels, "--model", f"file://{model}", values=values)
    assert job.exit_code == 0, job.log
    (output,) = local_mode.root.rglob("texts.csv.out")
    lines = [line for line in output.read_text(encoding="utf-8").splitlines() if line]
    for line, text in zip(lines, texts, strict=True):
        assert_same(json.loads(line), predictor, text)
