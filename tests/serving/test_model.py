"""Artifacts are loaded with their own handlers, also if these have only the functions of AWS's toolkit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.serving.model import ClientError, ServedModel

TOOLKIT_HANDLER = """
def model_fn(folder):
    return 10

def input_fn(body, content_type):
    if content_type != "application/json":
        raise ValueError(f"no {content_type}")
    return int(body)

def predict_fn(data, model):
    return data * model

def output_fn(prediction, accept):
    return str(prediction), "text/plain"
"""


@pytest.fixture
def other_artifact(tmp_path: Path) -> Path:
    """An artifact with a handler of its own."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(TOOLKIT_HANDLER, encoding="utf-8")
    return tmp_path


def test_handler_with_the_functions_of_the_toolkit_is_used(other_artifact: Path) -> None:
    model = ServedModel.load(other_artifact)
    assert not model.can_batch
    request = model.parse(b"4", "application/json")
    assert model.count(request) == 1
    answer = model.respond(request, model.classify(model.prepare(request, 0, 1)), "*/*")
    assert (answer.body, answer.media_type) == (b"40", "text/plain")
    with pytest.raises(ClientError, match="no text/csv") as caught:
        model.parse(b"4", "text/csv")
    assert caught.value.status == 400


def test_missing_functions_are_named(other_artifact: Path) -> None:
    path = other_artifact / "code" / "inference.py"
    path.write_text(TOOLKIT_HANDLER.replace("def output_fn", "def other_fn"), encoding="utf-8")
    with pytest.raises(UserError, match=r"inference\.py does not define output_fn"):
        ServedModel.load(other_artifact)


def test_folder_without_artifact_is_described(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    with pytest.raises(UserError, match=r"code/inference\.py is missing\. .* contains model\.pth"):
        ServedModel.load(tmp_path)


def test_unsupported_format_is_refused(image_root: Path, tmp_path: Path) -> None:
    shutil.copytree(image_root / "model", tmp_path / "model")
    path = tmp_path / "model" / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}), encoding="utf-8")
    with pytest.raises(UserError, match="format_version=99"):
        ServedModel.load(tmp_path / "model")


def test_loading_writes_nothing_into_the_artifact(image_root: Path) -> None:
    before = sorted((image_root / "model").rglob("*"))
    model = ServedModel.load(image_root / "model")
    assert model.can_batch
    assert not model.is_text_model
    assert sorted((image_root / "model").rglob("*")) == before


def test_client_errors_have_the_status_of_the_handler(image_root: Path) -> None:
    model = ServedModel.load(image_root / "model")
    for call, status in (
        (lambda: model.parse(b"x", "application/x-npy"), 415),
        (lambda: model.parse(b"{", "application/json"), 400),
        (lambda: model.check_accept("image/png"), 406),
        (lambda: model.prepare(model.parse(b"x", "image/png"), 0, 1), 400),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.status == status
